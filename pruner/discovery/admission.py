"""What discovery turns away: weights that are quantised or spread, and what is no causal language model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruner.dispatching import is_dispatched

PACKED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Packages whose modules hold their weights in a form of their own."""


def check_weights(model: nn.Module) -> None:
    """Raise ValueError if the model holds quantised weights, whose indices are not those of the numbers."""
    where = quantised_by(model)
    if where is not None:
        raise ValueError(
            f"{where}: quantised weights cannot be sliced; prune the model's unquantised original "
            "and quantise what comes out"
        )


def check_together(model: nn.Module) -> None:
    """Raise ValueError if a device map has spread the model: a trace would take its hooks for the model."""
    if is_dispatched(model):
        raise ValueError(
            f"{type(model).__name__} was loaded with a device map, which puts hooks into its layers; load it "
            "without one, or take it off with pruner.dispatching.gather, as `prune` does"
        )


def quantised_by(model: nn.Module) -> str | None:
    """The configuration entry, module or weight that shows a model to be quantised; None if it is not."""
    if getattr(getattr(model, "config", None), "quantization_config", None):
        return f"{type(model).__name__}'s configuration has a quantization_config"
    for name, module in model.named_modules():
        if type(module).__module__.startswith(PACKED):
            return f"module {name!r} is a quantised {type(module).__name__}"
    for name, parameter in model.named_parameters():
        if is_code(parameter):
            return f"parameter {name!r} is of dtype {parameter.dtype}"
    for name, buffer in model.named_buffers():
        if "weight" in name.rpartition(".")[2] and buffer.dim() > 1 and is_code(buffer):
            return f"buffer {name!r} is of dtype {buffer.dtype}"
    return None


def is_code(weight: Tensor) -> bool:
    """Whether a weight holds codes for numbers: integers, or floating-point numbers of eight bits."""
    return not (weight.is_floating_point() or weight.is_complex()) or weight.element_size() == 1


def arguments_for(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs, and no cache where `forward` heeds that; raises ValueError where it takes others."""
    parameters = inspect.signature(model.forward).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    strange = [name for name in inputs if name not in parameters and not anything]
    if strange:
        raise ValueError(
            f"{type(model).__name__} does not run on {', '.join(strange)}: its forward takes "
            f"{', '.join(parameters)}; give `discover` the inputs that it runs on"
        )
    heeded = anything or "use_cache" in parameters
    return {**inputs, **({"use_cache": False} if heeded else {})}


def check_settled(model: nn.Module, twin: nn.Module) -> None:
    """Raise ValueError if running the twin put other modules in place of some: that would undo a cut."""
    for name, module in twin.named_modules():
        before = type(model.get_submodule(name)).__name__
        if before != type(module).__name__:
            raise ValueError(
                f"{name!r} becomes a {type(module).__name__} when the model first runs, from a {before}: "
                "built anew it would not have the widths of a pruned one; choose the configuration "
                "in which it is that from the start"
            )


def check_head(model: nn.Module, output: Any) -> None:
    """Raise ValueError unless a forward pass gave scores for every token, as a language-model head does.

    Args:
        model: what ran.
        output: what its `forward` returned: something with `logits` of (batch, tokens, vocabulary), or
            the logits alone.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, torch.Tensor) or logits.dim() < 3:
        raise ValueError(
            f"{type(model).__name__} has no causal language-model head: expected its forward to return "
            f"logits of (batch, tokens, vocabulary), got {described(output)}; give the class with the head, "
            "such as AutoModelForCausalLM loads"
        )


def described(output: Any) -> str:
    """What a forward pass returned, in a few words."""
    logits = getattr(output, "logits", output)
    return f"a tensor of {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
