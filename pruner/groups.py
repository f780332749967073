"""What can only be removed together: groups, the units inside them, and what removing a unit saves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
class Count:
    """A whole number on a module that counts indices of a group, such as `num_heads` or `split_size`.

    Attributes:
        module: name of the module.
        attribute: as on the module, or "config.NAME" for an entry of its configuration, of which it then
            gets a copy of its own.
        size: the number in the dense model.
        index: (num_units, width) int64 of 0 .. size - 1: what each unit takes from it.
    """

    module: str
    attribute: str
    size: int
    index: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A root-mean-square norm over an axis that a group cuts.

    Zeros count in its mean. With k of n indices gone it gives the same once its weight is multiplied by
    sqrt(n / (n - k)) and its epsilon by n / (n - k).

    Attributes:
        module: name of the module.
        weight: name of its weight on the module, None where it has none.
        offset: what the module adds to its weight before it multiplies (0, or 1).
        epsilon: name of its epsilon on the module.
        size: n in the dense model.
        index: (num_units, width) int64 of 0 .. n - 1: what each unit takes.
    """

    module: str
    weight: str | None
    offset: float
    epsilon: str
    size: int
    index: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ArgumentSlice:
    """A constant that a module is called with and that varies along a group, such as ALiBi's slopes.

    Attributes:
        module: name of the module.
        argument: name in its `forward`.
        dim: the axis, which may hold this many indices several times over (batch by heads).
        size: how many there are in the dense model.
        index: (num_units, width) int64 of 0 .. size - 1: what each unit takes.
    """

    module: str
    argument: str
    dim: int
    size: int
    index: NDArray[np.int64]


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
        shares: names of the groups that own other indices or axes of the same parameters, or, of a layer,
            all that lies in it: what is left of one depends on what is left of the others.
        counts: numbers on modules that follow from how many units there are.
        norms: norms that average over the units.
        arguments: constants of which each surviving unit keeps its own part.
        fewest: how many units must stay; of experts, as many as the router chooses for a token.
    """

    name: str
    kind: Kind
    layer: int | None
    num_units: int
    slices: tuple[Slice, ...]
    modules: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    counts: tuple[Count, ...] = ()
    norms: tuple[Norm, ...] = ()
    arguments: tuple[ArgumentSlice, ...] = ()
    fewest: int = 0


def with_shares(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups, each knowing which others it depends on."""
    owners: dict[str, dict[str, None]] = {}
    for group in groups:
        for name in _parameters_of(group, groups):
            owners.setdefault(name, {})[group.name] = None
    return tuple(
        replace(
            group,
            shares=tuple(
                dict.fromkeys(
                    other
                    for name in _parameters_of(group, groups)
                    for other in owners[name]
                    if other != group.name
                )
            ),
        )
        for group in groups
    )


def _parameters_of(group: Group, groups: Sequence[Group]) -> Iterator[str]:
    """The parameters that a group owns slices of; for whole layers, those that any group owns in them."""
    yield from (piece.name for piece in group.slices)
    if group.modules:
        inside = tuple(f"{module}." for module in group.modules)
        yield from (p.name for each in groups for p in each.slices if p.name.startswith(inside))


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
