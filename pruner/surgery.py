"""Removes units from a model: their slices, and the numbers on modules that count them."""

from collections.abc import Sequence

import torch
from torch import nn

from pruner.groups import Group, Kept
from pruner.slicing import (
    believe_own_weights,
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


def zero(model: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    """Zero what `remove` would take out, in place; every shape stays: the reference for the law."""
    for (name, dim), gone in lost_indices(groups, kept).items():
        tensor = named_tensor(model, name)
        tensor.data.index_fill_(dim, torch.as_tensor(gone, device=tensor.device), 0)
