"""Cuts weights, and the numbers on modules that follow from their widths."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruner.groups import ArgumentSlice, Count, Group, Kept, Norm

Indices = NDArray[np.int64]

KEPT_OF = "kept_of_"


def gone_units(group: Group, kept: Kept) -> Indices:
    """The units of a group that go; none if `kept` does not name it.

    Raises:
        ValueError: `kept` names a unit that the group does not have, or too few.
    """
    if group.name not in kept:
        return np.zeros(0, np.int64)
    survivors = np.asarray(kept[group.name], dtype=np.int64)
    if len(survivors) and not 0 <= survivors.min() <= survivors.max() < group.num_units:
        raise ValueError(
            f"group {group.name!r} has units 0..{group.num_units - 1}, kept names "
            f"{int(survivors.min())}..{int(survivors.max())}: it was made for another model"
        )
    gone = np.setdiff1d(np.arange(group.num_units), survivors)
    if group.num_units - len(gone) < group.fewest:
        raise ValueError(
            f"of group {group.name!r} at least {group.fewest} units must stay, for its router chooses that "
            f"many; kept names {group.num_units - len(gone)}"
        )
    return gone


def lost_indices(groups: Sequence[Group], kept: Kept) -> dict[tuple[str, int], Indices]:
    """(parameter or buffer, axis) -> the indices that go, ascending."""
    parts: dict[tuple[str, int], list[Indices]] = {}
    for group in groups:
        gone = gone_units(group, kept)
        for piece in group.slices if len(gone) else ():
            parts.setdefault((piece.name, piece.dim), []).append(piece.index[gone].reshape(-1))
    return {place: np.unique(np.concatenate(indices)) for place, indices in parts.items()}


def lost_counts(groups: Sequence[Group], kept: Kept) -> dict[tuple[str, str], int]:
    """(module, attribute) -> its number afterwards."""
    parts: dict[tuple[str, str], tuple[Count, list[Indices]]] = {}
    for group in groups:
        gone = gone_units(group, kept)
        for count in group.counts if len(gone) else ():
            entry = parts.setdefault((count.module, count.attribute), (count, []))
            entry[1].append(count.index[gone].reshape(-1))
    return {
        place: count.size - len(np.unique(np.concatenate(indices)))
        for place, (count, indices) in parts.items()
    }


def slice_tensors(model: nn.Module, lost: Mapping[tuple[str, int], Indices]) -> None:
    """Take indices out of parameters and buffers, in place: tied ones stay tied."""
    for (name, dim), gone in lost.items():
        tensor = named_tensor(model, name)
        stay = np.setdiff1d(np.arange(tensor.size(dim)), gone)
        tensor.grad = None
        tensor.data = tensor.data.index_select(dim, torch.as_tensor(stay, device=tensor.device))


def named_tensor(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name."""
    owner, _, attribute = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), attribute)
    return tensor


def set_counts(model: nn.Module, numbers: Mapping[tuple[str, str], int]) -> None:
    """Set whole numbers on modules; a configuration is copied before it is changed."""
    own: set[str] = set()
    for (name, attribute), number in numbers.items():
        module: Any = model.get_submodule(name)
        entry = attribute.removeprefix("config.")
        if entry != attribute:
            if name not in own:
                own.add(name)
                module.config = copy.copy(module.config)
            module = module.config
        setattr(module, entry, number)


def believe_own_weights(modules: Iterable[nn.Module]) -> None:
    """Set the widths that torch's own modules keep beside their weights, from the weights."""
    for module in modules:
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = weight.shape
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            module.normalized_shape = tuple(weight.shape)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            believe_channels(module)
        elif type(module).__name__ == "Conv1D":
            vars(module).update(nx=weight.shape[0], nf=weight.shape[1])


def believe_channels(module: nn.Conv1d | nn.Conv2d) -> None:
    """Set a convolution's channels; a depthwise one has as many groups."""
    depthwise = module.groups == module.in_channels and module.weight.shape[1] == 1
    if depthwise:
        module.groups = module.weight.shape[0]
    module.out_channels = module.weight.shape[0]
    module.in_channels = module.weight.shape[1] * module.groups


def lost_norms(groups: Sequence[Group], kept: Kept) -> list[tuple[Norm, int]]:
    """The norms that average over what goes, each with how many of its channels go."""
    parts: dict[str, tuple[Norm, list[Indices]]] = {}
    for group in groups:
        gone = gone_units(group, kept)
        for norm in group.norms if len(gone) else ():
            parts.setdefault(norm.module, (norm, []))[1].append(norm.index[gone].reshape(-1))
    return [(norm, len(np.unique(np.concatenate(indices)))) for norm, indices in parts.values()]


def rescale_norm(module: nn.Module, norm: Norm, num_gone: int) -> None:
    """Let a norm over fewer channels give what it gave over all of them with zeros among them."""
    share = (norm.size - num_gone) / norm.size
    setattr(module, norm.epsilon, getattr(module, norm.epsilon) / share)
    if norm.weight is not None:
        weight = getattr(module, norm.weight)
        weight.data = (weight.data + norm.offset) / math.sqrt(share) - norm.offset


def lost_arguments(groups: Sequence[Group], kept: Kept) -> list[tuple[ArgumentSlice, Indices]]:
    """The arguments of modules that vary along what goes, each with its indices that stay."""
    parts: dict[tuple[str, str], tuple[ArgumentSlice, list[Indices]]] = {}
    for group in groups:
        gone = gone_units(group, kept)
        for piece in group.arguments if len(gone) else ():
            entry = parts.setdefault((piece.module, piece.argument), (piece, []))
            entry[1].append(piece.index[gone].reshape(-1))
    return [
        (piece, np.setdiff1d(np.arange(piece.size), np.concatenate(indices)))
        for piece, indices in parts.values()
    ]


def slice_argument(module: nn.Module, piece: ArgumentSlice, stay: Indices) -> None:
    """Let a module see only these indices of an argument, now and once loaded again.

    The module carries a plain list "kept_of_ARGUMENT": the axis, its size in the dense model, and the
    indices that stay. `take_arguments` reads it, as a forward pre-hook.
    """
    attribute = f"{KEPT_OF}{piece.argument}"
    before = getattr(module, attribute, None)
    size = piece.size if before is None else before[1]
    indices = stay if before is None else np.asarray(before[2:])[stay]
    if not any(key.startswith(KEPT_OF) for key in vars(module)):
        module.register_forward_pre_hook(take_arguments, with_kwargs=True)
    setattr(module, attribute, [piece.dim, size, *(int(index) for index in indices)])


def take_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Cut the arguments of which a module keeps a part; an axis may hold its indices several times over."""
    taken = dict(kwargs)
    for attribute, (dim, size, *indices) in kept_lists(module):
        value = kwargs.get(attribute.removeprefix(KEPT_OF))
        if isinstance(value, Tensor):
            blocks = value.unflatten(dim, (-1, size))
            index = torch.as_tensor(indices, device=value.device)
            taken[attribute.removeprefix(KEPT_OF)] = blocks.index_select(dim + 1, index).flatten(dim, dim + 1)
    return args, taken


def take_as_given(module: nn.Module) -> None:
    """Let a module be called with arguments as they were recorded: cut already, where it keeps a part."""
    for attribute, (dim, _, *indices) in kept_lists(module):
        setattr(module, attribute, [dim, len(indices), *range(len(indices))])


def kept_lists(module: nn.Module) -> list[tuple[str, list[int]]]:
    """The attributes that say which indices of an argument a module keeps."""
    return [(key, value) for key, value in vars(module).items() if key.startswith(KEPT_OF)]
