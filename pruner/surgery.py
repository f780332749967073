"""Removes units from a model: their slices, the numbers on modules that count them, whole layers."""

from collections.abc import Sequence

import torch
from torch import nn

from pruner.depth import remove_layers
from pruner.groups import Group, Kept
from pruner.slicing import (
    believe_own_weights,
    gone_units,
    lost_arguments,
    lost_counts,
    lost_indices,
    lost_norms,
    named_tensor,
    rescale_norm,
    set_counts,
    slice_argument,
    slice_tensors,
)


def remove(model: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    """Take every unit that is not in `kept` out of the model, in place; tied weights stay tied.

    Args:
        model: on any device, the meta device included, in any dtype.
        groups: the model's own, from `discover`.
        kept: group name -> surviving units; groups that it does not name keep all of theirs.

    Raises:
        ValueError: `kept` names units that a group does not have.
    """
    slice_tensors(model, lost_indices(groups, kept))
    set_counts(model, lost_counts(groups, kept))
    believe_own_weights(model.modules())
    for norm, num_gone in lost_norms(groups, kept):
        rescale_norm(model.get_submodule(norm.module), norm, num_gone)
    for piece, stay in lost_arguments(groups, kept):
        slice_argument(model.get_submodule(piece.module), piece, stay)
    remove_layers(model, groups, kept)


def zero(model: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    """Zero what `remove` would take out, in place; every shape stays: the reference for the law.

    Raises:
        ValueError: a whole layer is to go, which zeroing does not make an identity in every architecture.
    """
    for group in groups:
        if group.kind == "layer" and len(gone_units(group, kept)):
            raise ValueError(
                f"group {group.name!r} has whole layers, which cannot be zeroed; compare their removal with "
                "a model whose layers return the hidden states that they are called with"
            )
    for (name, dim), gone in lost_indices(groups, kept).items():
        tensor = named_tensor(model, name)
        tensor.data.index_fill_(dim, torch.as_tensor(gone, device=tensor.device), 0)
