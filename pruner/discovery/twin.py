"""A copy of the model without its weights, to be traced instead of the model itself."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from torch import Tensor, nn

NUM_TOKENS = 5
FIRST_TOKEN = 3
WARNING = "warn_if_padding_and_no_attention_mask"


def meta_twin(model: nn.Module) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """Copy a model onto the meta device, tied weights tied, in evaluation mode.

    Attention and experts are computed by plain matrix products there, which tracing can follow.

    Returns:
        The twin, and its integer and boolean buffers with their values: these are constants of the
        architecture and decide what is computed. Values that the model itself has on the meta device
        are unknown.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    constants = []
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
        if not buffer.is_floating_point() and not buffer.is_meta:
            constants.append((memo[id(buffer)], buffer.detach().cpu()))
    twin: nn.Module = copy.deepcopy(model, memo).eval()
    for choose, choice in (
        ("set_attn_implementation", "eager"),
        ("set_experts_implementation", "batched_mm"),
    ):
        with contextlib.suppress(AttributeError, ValueError):
            getattr(twin, choose)(choice)
    for module in twin.modules():
        if hasattr(module, WARNING):
            setattr(module, WARNING, say_nothing)
    return twin, constants


def say_nothing(*args: Any) -> None:
    """Stand in for a check of the input's values that only warns."""


def token_inputs() -> dict[str, Any]:
    """A short row of tokens: what nearly every causal language model runs on."""
    return {"input_ids": torch.arange(NUM_TOKENS)[None] + FIRST_TOKEN}
