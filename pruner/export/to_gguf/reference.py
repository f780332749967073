"""Computes from a GGUF file of Llama's kind what llama.cpp computes, in numpy: logits for given tokens.

Run by itself, with nothing of this project: `python reference.py FILE.gguf IDS.npy LOGITS.npy`.
"""

import sys
from typing import Any

import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray

Array = NDArray[np.float32]


class File:
    """A GGUF file's header and weights."""

    def __init__(self, path: str) -> None:
        reader = GGUFReader(path)
        self.header = {key: field.contents() for key, field in reader.fields.items()}
        self.weights = {tensor.name: tensor.data for tensor in reader.tensors}
        self.arch = self.header["general.architecture"]

    def number(self, key: str, layer: int = 0) -> Any:
        """An entry of the architecture's, that of one layer where there is a list."""
        value = self.header[f"{self.arch}.{key}"]
        return value[layer] if isinstance(value, list) else value

    def apply(self, name: str, x: Array) -> Array:
        """A linear map: (tokens, in) -> (tokens, out)."""
        y: Array = x @ self.weights[f"{name}.weight"].astype(np.float32).T
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else y + bias

    def norm(self, name: str, x: Array) -> Array:
        """A root-mean-square norm."""
        mean = np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True)
        scale = 1 / np.sqrt(mean + self.number("attention.layer_norm_rms_epsilon"))
        y: Array = (x * scale).astype(np.float32) * self.weights[f"{name}.weight"]
        return y


def logits(file: File, ids: NDArray[np.int64]) -> Array:
    """(tokens,) -> (tokens, vocabulary)."""
    embedding = file.weights["token_embd.weight"]
    x = embedding[ids].astype(np.float32)
    for layer in range(file.number("block_count")):
        x = x + attention(file, layer, file.norm(f"blk.{layer}.attn_norm", x))
        x = x + mlp(file, layer, file.norm(f"blk.{layer}.ffn_norm", x))
    x = file.norm("output_norm", x)
    if "output.weight" in file.weights:
        return file.apply("output", x)
    y: Array = x @ embedding.astype(np.float32).T
    return y


def mlp(file: File, layer: int, x: Array) -> Array:
    """SwiGLU."""
    gate = file.apply(f"blk.{layer}.ffn_gate", x)
    gate = gate / (1 + np.exp(-gate))
    assert gate.shape[1] == file.number("feed_forward_length", layer)
    return file.apply(f"blk.{layer}.ffn_down", gate * file.apply(f"blk.{layer}.ffn_up", x))


def attention(file: File, layer: int, x: Array) -> Array:
    """Causal attention in which several query heads may share one head of keys and values."""
    heads, kv_heads = (file.number(f"attention.head_count{kind}", layer) for kind in ("", "_kv"))
    width = file.number("attention.key_length")
    block = f"blk.{layer}.attn"
    q = turned(file, file.apply(f"{block}_q", x).reshape(len(x), heads, width))
    k = turned(file, file.apply(f"{block}_k", x).reshape(len(x), kv_heads, width))
    v = file.apply(f"{block}_v", x).reshape(len(x), kv_heads, width)
    k, v = (np.repeat(one, heads // kv_heads, axis=1) for one in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width)
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return file.apply(f"{block}_output", np.einsum("hqk,khd->qhd", shares, v).reshape(len(x), -1))


def turned(file: File, x: Array) -> Array:
    """Rotary embedding of neighbours."""
    width = file.number("rope.dimension_count")
    freqs = file.number("rope.freq_base") ** -(np.arange(0, width, 2) / width)
    angles = np.arange(len(x))[:, None, None] * (freqs / file.weights.get("rope_freqs.weight", 1))
    a, b = x[..., 0::2], x[..., 1::2]
    pair = a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)
    return np.stack(pair, axis=-1).reshape(x.shape).astype(np.float32)


if __name__ == "__main__":
    path, ids, answer = sys.argv[1:]
    np.save(answer, logits(File(path), np.load(ids)), allow_pickle=False)
