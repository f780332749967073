"""What a layer must do once units are gone: the same operators, on tensors of the sizes that labels say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from pruner.discovery.events import Event, ModuleCall
from pruner.discovery.families import Family
from pruner.discovery.operation import States
from pruner.discovery.rules import FILLS
from pruner.discovery.rules.views import MOVES, SAME
from pruner.discovery.solving import Bools, Ints

NOT_COMPARED = SAME | FILLS | {"copy", "expand", "arange"}
"""Operators that may come or go with memory layout and change no number."""

VIEWS = frozenset({"_unsafe_view", "_reshape_alias", "reshape"})
"""What a view may be called, as memory layout has it."""

Shape = tuple[int | None, ...]
"""None along an axis of which the labels do not say the size."""

Foreseen = tuple[str, Shape, tuple[float, ...], str]
"""An operator's name, the shape of its first output, its scalars, its place."""

Foretold = list[Foreseen]
"""What every operator must do."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """One layer of the twin, or all of it, as it ran dense, and a family to cut in it.

    Attributes:
        twin: the whole model on the meta device.
        layer: the call of the decoder layer, or of the whole twin.
        events: what ran within.
        states: the labels of its tensors.
        family: whose units are to go.
        units: those that go in the probe.
        repeats: decoder layer that does not run -> the one that it repeats.
    """

    twin: nn.Module
    layer: ModuleCall
    events: Sequence[Event]
    states: States
    family: Family
    units: Ints
    repeats: Mapping[str, str]


def foretell(probe: Probe) -> Foretold:
    """What the cut layer must do."""
    falling = probe.family.falling(probe.units)[probe.family.class_of]
    return [
        (name_of(event), shape_after(probe, event, falling), scalars(event), event.place)
        for event in probe.events
        if compared(event)
    ]


def compared(event: Event) -> bool:
    """Whether an operator is the model's own and computes something."""
    return event.name not in NOT_COMPARED and not event.place.startswith("slicing.py")


def name_of(event: Event) -> str:
    """An operator's name, the same for all that only read a tensor in another shape."""
    return "view" if event.name in VIEWS else event.name


def shape_after(probe: Probe, event: Event, falling: Bools) -> Shape:
    """The shape of what an operator gives once the atoms that are `falling` are gone, by its labels.

    Where elements only move, axes from which nothing falls may have been repeated, and may change.
    """
    tensor = event.outputs[0]
    sizes: list[int | None] = [None] * tensor.dim() if event.name in MOVES else list(tensor.shape)
    for dim, labels in probe.states.of(tensor).axes().items():
        gone = int(np.any([falling[each] for each in labels], axis=0).sum())
        sizes[dim] = tensor.size(dim) - gone if gone else sizes[dim]
    return tuple(sizes)


def scalars(event: Event) -> tuple[float, ...]:
    """The floating-point arguments of an operator."""
    return tuple(arg for arg in event.args if isinstance(arg, float))


def compare(events: Sequence[Event], foretold: Foretold, failure: Exception | None) -> tuple[int, str | None]:
    """How much of what is foretold came to pass, and what did not.

    Operators that only move elements may be left out: heads are not repeated once there are enough.
    """
    done = 0
    for event in filter(compared, events):
        found = next((n for n in may_be_next(foretold, done) if as_foretold(event, foretold[n])), None)
        if found is None:
            return done, unlike(event, foretold, done)
        done = found + 1
    if failure is not None:
        return done, f"after the cut: {failure}"
    if any(name not in MOVES for name, *_ in foretold[done:]):
        return done, "the layer takes another path after the cut"
    return len(foretold), None


def may_be_next(foretold: Foretold, done: int) -> Iterator[int]:
    """The places in what is foretold that may come next."""
    for number in range(done, len(foretold)):
        yield number
        if foretold[number][0] not in MOVES:
            return


def as_foretold(event: Event, foretold: Foreseen) -> bool:
    """Whether an operator did what was foretold."""
    name, shape, floats, _ = foretold
    return (name_of(event), scalars(event)) == (name, floats) and fits(event.outputs[0].shape, shape)


def unlike(event: Event, foretold: Foretold, done: int) -> str:
    """What was foretold in place of an event."""
    if done == len(foretold):
        return "the layer takes another path after the cut"
    name, shape, _, place = foretold[done]
    return f"{name} at {place} gives {tuple(event.outputs[0].shape)} where {shape} is foretold"


def fits(shape: Sequence[int], foretold: Shape) -> bool:
    """Whether a shape is as foretold."""
    return len(shape) == len(foretold) and all(b is None or a == b for a, b in zip(shape, foretold))
