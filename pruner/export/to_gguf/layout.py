"""Whether a model is one that llama.cpp can compute, and what a GGUF header says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruner.modeling.widths import stock_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KNOWN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
"""Classes that compute what Llama computes, biases aside, which llama.cpp's `llama` takes too.

Its own `qwen2` does not load where the heads' widths no longer add up to the hidden size.
"""

EQUAL, PER_LAYER = "llama", "deci"
"""What llama.cpp calls a Llama whose layers have equal counts, and one in which each has its own."""

STATIC_ROPE = ("default", "linear", "llama3")
"""Kinds of rotary embedding whose frequencies do not depend on the length of the text."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of a decoder of Llama's kind.

    Attributes:
        arch: llama.cpp's name of the architecture.
        vocab_size: rows of the embedding.
        hidden_size: of the residual stream.
        context_length: tokens; that of the sliding window where there is one, up to which it is no limit.
        head_dim: of every head in every layer.
        heads, kv_heads, channels: per layer.
        epsilon: of every norm.
        theta: base of the rotary frequencies.
        rope_factors: (head_dim / 2,) what the frequencies are divided by; None for one.
    """

    arch: str
    vocab_size: int
    hidden_size: int
    context_length: int
    head_dim: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    channels: tuple[int, ...]
    epsilon: float
    theta: float
    rope_factors: Tensor | None


def layout_of(model: PreTrainedModel) -> Layout:
    """Read a model's shape off its modules.

    Raises:
        ValueError: llama.cpp computes something else; with the reason and the format that can hold it.
    """
    name = stock_class(type(model)).__name__
    if name not in KNOWN:
        raise ValueError(unknown(name))
    config, layers, rotary = model.config, model.model.layers, model.model.rotary_emb
    head_dim = layers[0].self_attn.head_dim
    counts = [counts_of(layer, head_dim) for layer in layers]
    equal = len(set(counts)) == 1
    heads, kv_heads, channels = zip(*counts)
    layout = Layout(
        arch=EQUAL if equal else PER_LAYER,
        vocab_size=model.get_input_embeddings().weight.shape[0],
        hidden_size=model.get_input_embeddings().weight.shape[1],
        context_length=min(config.max_position_embeddings, window(config) or config.max_position_embeddings),
        head_dim=head_dim,
        heads=heads,
        kv_heads=kv_heads,
        channels=channels,
        epsilon=layers[0].input_layernorm.variance_epsilon,
        theta=config.rope_parameters["rope_theta"],
        rope_factors=rope_factors(rotary, config.rope_parameters["rope_theta"], head_dim),
    )
    check(model, layout)
    return layout


def unknown(name: str) -> str:
    """Why a class has no GGUF form here, and which form it has."""
    reason = "llama.cpp derives its ALiBi slopes from the number of heads, and so takes all or none of them"
    if name != "BloomForCausalLM":
        reason = f"known are {', '.join(KNOWN)}"
    return (
        f"gguf cannot hold a pruned {name}: {reason}; export as hf (which llama.cpp's own converter "
        "reads where all layers are equal)"
    )


def counts_of(layer: Any, head_dim: int) -> tuple[int, int, int]:
    """Query heads, key-value heads and MLP channels of one decoder layer, by its weights."""
    attention, mlp = layer.self_attn, layer.mlp
    widths = [attention.q_proj.weight.shape[0], attention.k_proj.weight.shape[0]]
    return widths[0] // head_dim, widths[1] // head_dim, mlp.up_proj.weight.shape[0]


def window(config: Any) -> int | None:
    """The number of tokens that attention looks back at most, None for all."""
    return getattr(config, "sliding_window", None)


def rope_factors(rotary: Any, theta: float, head_dim: int) -> Tensor | None:
    """(head_dim / 2,) what the plain frequencies theta^(-2i/d) are divided by; None if by one."""
    plain = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    own = rotary.inv_freq.double().cpu()
    if own.shape != plain.shape:
        raise ValueError("gguf cannot hold heads that are turned in part; export as hf")
    factors = plain / own
    return None if torch.allclose(factors, torch.ones_like(factors), rtol=1e-5) else factors.float()


def check(model: PreTrainedModel, layout: Layout) -> None:
    """Raise ValueError for what a GGUF header has no word for."""
    layers, rope = model.model.layers, model.config.rope_parameters
    norms = [module for module in model.modules() if hasattr(module, "variance_epsilon")]
    attentions = [layer.self_attn for layer in layers]
    reasons = {
        "layers without heads or MLP channels": 0 in (*layout.heads, *layout.kv_heads, *layout.channels),
        "heads of several widths": any(one.head_dim != layout.head_dim for one in attentions),
        "queries that share keys unevenly": any(h % k for h, k in zip(layout.heads, layout.kv_heads) if k),
        "norms of several epsilons": any(norm.variance_epsilon != layout.epsilon for norm in norms),
        f"the activation {model.config.hidden_act}": model.config.hidden_act != "silu",
        f"rotary embeddings of type {rope['rope_type']}": rope["rope_type"] not in STATIC_ROPE,
        "another scale of attention": any(
            abs(one.scaling * layout.head_dim**0.5 - 1) > 1e-6 for one in attentions
        ),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ValueError(f"gguf cannot hold {' and '.join(found)}; export as hf")
