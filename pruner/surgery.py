"""Removes units from a model: slices what they own, and makes the modules believe their new widths."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruner.groups import Group, Kept


def remove(model: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    """Take out of the model every unit of a named group that is not in `kept`; tied weights stay tied."""
    tensors = named_tensors(model)
    old = {name: tensor.shape for name, tensor in tensors.items()}
    lost = lost_indices(groups, kept)
    for (name, dim), gone in lost.items():
        tensor = tensors[name]
        stay = np.setdiff1d(np.arange(old[name][dim]), gone)
        index = torch.as_tensor(stay, device=tensor.device)
        tensor.grad = None
        tensor.data = tensor.data.index_select(dim, index)
    for module in model.modules():
        believe_own_weights(module)
    for group in groups:
        if group.name in kept:
            believe_new_widths(model, group, len(kept[group.name]))


def zero(model: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    """Zero what `remove` would take out; every shape stays."""
    tensors = named_tensors(model)
    for (name, dim), gone in lost_indices(groups, kept).items():
        tensor = tensors[name]
        tensor.data.index_fill_(dim, torch.as_tensor(gone, device=tensor.device), 0)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones under their first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def lost_indices(groups: Sequence[Group], kept: Kept) -> dict[tuple[str, int], NDArray[np.int64]]:
    """(parameter, axis) -> the indices that go."""
    lost: dict[tuple[str, int], NDArray[np.int64]] = {}
    for group in groups:
        if group.name not in kept:
            continue
        gone = np.setdiff1d(np.arange(group.num_units), np.asarray(kept[group.name], dtype=np.int64))
        for piece in group.slices:
            key = (piece.name, piece.dim)
            lost[key] = np.union1d(lost.get(key, np.zeros(0, np.int64)), piece.index[gone].reshape(-1))
    return lost


def believe_own_weights(module: nn.Module) -> None:
    """Set the widths of a canonical leaf module from its weight's shape."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    elif type(module).__name__ == "Conv1D":
        module.nx, module.nf = weight.shape


def believe_new_widths(model: nn.Module, group: Group, num_kept: int) -> None:
    """Scale the integers of owning modules that equal a width of the group's."""
    widths = {group.num_units, *(piece.index.size for piece in group.slices)}
    widths |= {width // 3 for width in widths if width % 3 == 0 and width // 3 % group.num_units == 0}
    for module in owners(model, group):
        for key, value in list(vars(module).items()):
            if type(value) is int and value in widths and key not in ("layer_idx", "head_dim", "num_key_value_groups"):
                setattr(module, key, value * num_kept // group.num_units)


def owners(model: nn.Module, group: Group) -> Iterator[nn.Module]:
    """The innermost module that holds all of the group."""
    modules = dict(model.named_modules())
    yield modules.get(group.name) or modules[group.name.removesuffix(f".{group.kind}")]
