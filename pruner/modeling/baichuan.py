"""Baichuan-7B as what it is: a Llama whose query, key and value projections lie packed in one.

Its own classes are code beside the weights, for releases of transformers long past. Nothing of that code runs
here. The 13B model has ALiBi instead of rotary embeddings and is no Llama.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import LlamaConfig, LlamaForCausalLM

ARCHITECTURE = "BaiChuanForCausalLM"
"""The 7B model's class; the 13B model's and those of the second generation are spelled with a small c."""

PACKED = "self_attn.W_pack.weight"
SEPARATE = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
COMPUTED = "rotary_emb.inv_freq"
"""A buffer that old releases saved and that follows from the configuration."""

ENTRIES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "tie_word_embeddings"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
)
"""What its configuration and Llama's both say, by the same names."""


def is_baichuan(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of Baichuan-7B."""
    return ARCHITECTURE in (values.get("architectures") or ())


def as_llama_config(values: Mapping[str, Any]) -> LlamaConfig:
    """Llama's configuration from Baichuan-7B's config.json."""
    from transformers import LlamaConfig

    dtype = values.get("torch_dtype") or values.get("dtype")
    return LlamaConfig(**{name: values[name] for name in ENTRIES if name in values}, dtype=dtype)


def load_as_llama(folder: Path, config: LlamaConfig, dtype: str | torch.dtype | None) -> LlamaForCausalLM:
    """Read safetensors of Baichuan-7B into a Llama; what is read is mapped from the files, not copied twice.

    Raises:
        ValueError: weights are missing.
    """
    from transformers import LlamaForCausalLM

    model, info = LlamaForCausalLM.from_pretrained(
        None,
        config=config,
        state_dict=dict(unpacked(folder)),
        dtype=dtype or config.dtype or "auto",
        output_loading_info=True,
    )
    if info["missing_keys"]:
        raise ValueError(
            f"{folder} lacks {sorted(info['missing_keys'])[0]} of a Baichuan-7B model with "
            f"{config.num_hidden_layers} layers; copy all of its safetensors files"
        )
    return model


def unpacked(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and weight as Llama has them, file by file; the parts of a packed weight are views of it."""
    from safetensors import safe_open

    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (not a mapping)
                weight = weights.get_tensor(name)
                if name.endswith(PACKED):
                    prefix = name.removesuffix(PACKED)
                    yield from zip((prefix + part for part in SEPARATE), weight.chunk(3))
                elif not name.endswith(COMPUTED):
                    yield name, weight
