"""What can only be removed together: groups, the units inside them, and what removing a unit saves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

Kind = Literal["mlp", "attention", "query", "expert", "hidden", "layer"]
Shapes = Mapping[str, tuple[int, ...]]
Kept = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """The indices that every unit of a group owns along one axis of one parameter or buffer.

    Attributes:
        name: as in `model.named_parameters()` or `model.named_buffers()`.
        dim: the axis.
        index: (num_units, width) int64; row u holds the indices that go with unit u.
        reads: the parameter contracts this axis with the group's activation (down_proj, o_proj):
            it consumes what the other slices produce.
    """

    name: str
    dim: int
    index: NDArray[np.int64]
    reads: bool


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A family of like units of which each can be removed alone, all its slices together.

    An MLP is one group whose units are its channels; an attention block is one group whose units are
    its heads or key-value groups; the residual stream is one group for the whole model.

    Attributes:
        name: stable and unique in the model, e.g. "model.layers.4.mlp".
        kind: what a unit is.
        layer: index of the decoder layer, None for what spans layers.
        num_units: how many units there are.
        slices: what goes with a unit; empty for kind "layer".
        modules: for kind "layer", the module that unit u takes away.
        shares: names of the groups that own other axes of the same parameters or other
            partitions of the same axes.
    """

    name: str
    kind: Kind
    layer: int | None
    num_units: int
    slices: tuple[Slice, ...]
    modules: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape; tied parameters once, under their first name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def count_parameters(shapes: Shapes, groups: Sequence[Group], kept: Kept) -> int:
    """Parameters that remain in `shapes` when of every group named in `kept` only those units survive.

    Exact for any combination: an axis loses the union of what its groups remove, a parameter keeps the
    product of its axes. Groups not named keep everything. Tied parameters are to be listed once.
    """
    lost: dict[tuple[str, int], list[NDArray[np.int64]]] = {}
    dropped: set[str] = set()
    for group in groups:
        if group.name not in kept:
            continue
        gone = np.setdiff1d(np.arange(group.num_units), np.asarray(kept[group.name], dtype=np.int64))
        if not len(gone):
            continue
        dropped.update(group.modules[unit] + "." for unit in gone if group.modules)
        for piece in group.slices:
            lost.setdefault((piece.name, piece.dim), []).append(piece.index[gone].reshape(-1))
    total = 0
    for name, shape in shapes.items():
        if any(name.startswith(prefix) for prefix in dropped):
            continue
        size = 1
        for dim, length in enumerate(shape):
            pieces = lost.get((name, dim))
            size *= length - (len(np.unique(np.concatenate(pieces))) if pieces else 0)
        total += size
    return total


def unit_parameters(shapes: Shapes, group: Group) -> int:
    """Parameters that removing one unit of `group` alone saves (all units of a group save the same)."""
    everything = count_parameters(shapes, [group], {})
    return everything - count_parameters(shapes, [group], {group.name: range(1, group.num_units)})
