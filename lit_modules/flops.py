"""Floating-point operations of training, as papers count them, and a processor's peak."""

from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch import nn


def training_flops(model: Any, *, recomputed: bool = False) -> int:
    """Operations of a forward and a backward pass for each token.

    Two for every parameter of a matrix in the forward pass, two towards the inputs and two more for those
    that are trained in the backward pass (Kaplan et al. 2020, 2.1); recomputed activations cost a second
    forward pass. Attention's own products are left out: 2 % of a 7B model's at 512 tokens. The output
    layer counts for every token, also where only some are learned from.

    Args:
        model: a causal language model, adapters on it or not, whole or sharded.
        recomputed: activations are not kept.
    """
    looked_up, head = model.get_input_embeddings(), model.get_output_embeddings()
    skipped = None if looked_up.weight is head.weight else looked_up.weight
    matrices = [each for each in model.parameters() if len(shape_of(each)) > 1 and each is not skipped]
    whole = sum(shape_of(each).numel() for each in matrices)
    trained = sum(shape_of(each).numel() for each in matrices if each.requires_grad)
    return 2 * (whole * (2 + recomputed) + trained)


def shape_of(parameter: nn.Parameter) -> torch.Size:
    """Its shape, also where ZeRO-3 has parted it."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations per second of a GPU by its data sheet; None for a CPU or an unknown one."""
    return get_available_flops(device, torch.bfloat16) if device.type == "cuda" else None
