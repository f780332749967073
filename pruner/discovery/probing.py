"""Finds the numbers on modules that a cut must change, by cutting the twin and running the layer again.

A layer that was cut rightly runs the same operators as before, on tensors whose sizes the labels foretell,
with the same scalars. Where it does not, some number on some module still says the old width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from pruner.discovery.families import Family
from pruner.discovery.operation import States
from pruner.discovery.recording import Event, Interrupted, ModuleCall, record
from pruner.discovery.rules import FILLS
from pruner.discovery.rules.views import MOVES, SAME
from pruner.discovery.solving import Ints
from pruner.groups import Count, Group
from pruner.slicing import (
    believe_own_weights,
    lost_arguments,
    lost_counts,
    lost_indices,
    set_counts,
    slice_argument,
    slice_tensors,
)

MOST_ROUNDS = 6
NOT_COMPARED = SAME | FILLS | {"copy", "expand", "arange"}
"""Operators that may come or go with memory layout and change no number."""

VIEWS = frozenset({"_unsafe_view", "_reshape_alias", "reshape"})
"""What a view may be called, as memory layout has it."""

IDENTIFIERS = ("_id", "_idx", "_index", "vocab_size", "num_hidden_layers")
"""Ends of names of numbers that tell one thing from another, or count something else."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """One layer of the twin as it ran dense, and a family to cut in it.

    Attributes:
        twin: the whole model on the meta device.
        layer: the call of the decoder layer.
        events: what ran within.
        states: the labels of its tensors.
        family: whose units are to go.
        units: those that go in the probe.
    """

    twin: nn.Module
    layer: ModuleCall
    events: Sequence[Event]
    states: States
    family: Family
    units: Ints


def find_counts(probe: Probe, group: Group) -> tuple[Count, ...] | str:
    """The counts with which the layer runs as foretold, or the place where it still does not.

    Numbers are changed one at a time, each time the one that gets the layer furthest; those on modules
    come before those in configurations.
    """
    foretold = foretell(probe)
    chosen: tuple[Count, ...] = ()
    progress, trouble = run(probe, group, chosen, foretold)
    if trouble is None:
        return chosen
    candidates = list(candidates_for(probe))
    for _ in range(MOST_ROUNDS):
        better = next_count(probe, group, chosen, foretold, progress, candidates)
        if better is None:
            return trouble
        chosen, progress, trouble = better
        if trouble is None:
            return chosen
    return trouble


def next_count(
    probe: Probe,
    group: Group,
    chosen: tuple[Count, ...],
    foretold: Foretold,
    progress: int,
    candidates: Sequence[Count],
) -> tuple[tuple[Count, ...], int, str | None] | None:
    """The counts with the one more that gets the layer furthest, how far, and what happens then."""
    taken = {(count.module, count.attribute) for count in chosen}
    best = None
    for in_config in (False, True):
        for count in candidates:
            if count.attribute.startswith("config.") != in_config or (count.module, count.attribute) in taken:
                continue
            reached, trouble = run(probe, group, (*chosen, count), foretold)
            if reached > progress:
                progress, best = reached, ((*chosen, count), reached, trouble)
            if trouble is None:
                return best
        if best is not None:
            return best
    return best


Shape = tuple[int | None, ...]
"""None along an axis of which the labels do not say the size."""

Foreseen = tuple[str, Shape, tuple[float, ...], str]
"""An operator's name, the shape of its first output, its scalars, its place."""

Foretold = list[Foreseen]
"""What every operator must do."""


def foretell(probe: Probe) -> Foretold:
    """What the cut layer must do."""
    return [
        (
            name_of(event),
            shape_after(probe, event),
            scalars(event),
            event.place,
        )
        for event in probe.events
        if compared(event)
    ]


def compared(event: Event) -> bool:
    """Whether an operator is the model's own and computes something."""
    return event.name not in NOT_COMPARED and not event.place.startswith("slicing.py")


def name_of(event: Event) -> str:
    """An operator's name, the same for all that only read a tensor in another shape."""
    return "view" if event.name in VIEWS else event.name


def shape_after(probe: Probe, event: Event) -> Shape:
    """The shape of what an operator gives once the units are gone, by its labels.

    Where elements only move, axes from which nothing falls may have been repeated, and may change.
    """
    tensor = event.outputs[0]
    sizes: list[int | None] = [None] * tensor.dim() if event.name in MOVES else list(tensor.shape)
    for dim, labels in probe.states.of(tensor).axes().items():
        gone = int(np.any([probe.family.fallen(each, probe.units) for each in labels], axis=0).sum())
        sizes[dim] = tensor.size(dim) - gone if gone else sizes[dim]
    return tuple(sizes)


def scalars(event: Event) -> tuple[float, ...]:
    """The floating-point arguments of an operator."""
    return tuple(arg for arg in event.args if isinstance(arg, float))


def run(probe: Probe, group: Group, counts: tuple[Count, ...], foretold: Foretold) -> tuple[int, str | None]:
    """How many operators run as foretold, and what happens then; None if all do."""
    kept = {group.name: np.setdiff1d(np.arange(group.num_units), probe.units)}
    call = probe.layer
    with cut(probe.twin, replace(group, counts=counts), kept, call.name):
        try:
            recording = record(
                probe.twin.get_submodule(call.name), call.args, call.kwargs, probe.states.values, call.name
            )
            failure = None
        except Interrupted as interruption:
            recording, failure = interruption.recording, interruption.error
        return compare(recording.events, foretold, failure)


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


@contextmanager
def cut(twin: nn.Module, group: Group, kept: Mapping[str, Ints], layer: str) -> Iterator[None]:
    """Cut one layer of the twin for a while."""
    modules = list(twin.get_submodule(layer).modules())
    attributes = [(module, dict(vars(module)), dict(module._forward_pre_hooks)) for module in modules]
    tensors = [
        (t, t.data) for module in modules for t in itertools.chain(module.parameters(), module.buffers())
    ]
    slice_tensors(twin, lost_indices([group], kept))
    set_counts(twin, lost_counts([group], kept))
    believe_own_weights(modules)
    for piece, stay in lost_arguments([group], kept):
        slice_argument(twin.get_submodule(piece.module), piece, stay)
    try:
        yield
    finally:
        for module, before, hooks in attributes:
            vars(module).clear()
            vars(module).update(before)
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks.update(hooks)
        for tensor, data in tensors:
            tensor.data = data


def candidates_for(probe: Probe) -> Iterator[Count]:
    """Whole numbers on the layer's modules that equal the size of some axis which the family cuts."""
    patterns = axes_cut(probe)
    for name, module in probe.twin.get_submodule(probe.layer.name).named_modules(prefix=probe.layer.name):
        for attribute, number in whole_numbers(module):
            for index in patterns.get(number, ()):
                yield Count(name, attribute, number, index)


def whole_numbers(module: nn.Module) -> Iterator[tuple[str, int]]:
    """(attribute, number) of a module, and of the configuration that it holds."""
    if type(module).__module__.startswith("torch.nn"):
        return  # these have their numbers from their weights
    config: Any = vars(module).get("config")
    of_config = vars(config) if hasattr(config, "__dict__") else {}
    for prefix, values in (("", vars(module)), ("config.", of_config)):
        for attribute, value in values.items():
            if type(value) is int and not attribute.startswith("_") and not attribute.endswith(IDENTIFIERS):
                yield prefix + attribute, value


def axes_cut(probe: Probe) -> dict[int, list[Ints]]:
    """Size of an axis -> (num_units, width) indices along it that go with each unit, each way once."""
    units = np.arange(probe.family.num_units)[:, None]
    found: dict[int, dict[bytes, Ints]] = {len(units): {units.tobytes(): units}}
    seen: set[int] = set()
    for event in probe.events:
        for tensor in (*event.tensors, *event.outputs):
            for _, labels in probe.states.of(tensor).facets:
                if id(labels) in seen:
                    continue
                seen.add(id(labels))
                index = units_along(probe.family, labels)
                if index is not None:
                    found.setdefault(len(labels), {})[index.tobytes()] = index
    return {size: list(ways.values()) for size, ways in found.items()}


def units_along(family: Family, labels: Ints) -> Ints | None:
    """(num_units, width) the indices of an axis that go with each unit; None if not equally many do."""
    columns = family.falls[:, family.class_of[labels]].tocsr()
    columns[:, labels == 0] = 0
    columns.eliminate_zeros()
    columns.sort_indices()
    widths = np.diff(columns.indptr)
    if not len(widths) or widths[0] == 0 or (widths != widths[0]).any():
        return None
    index: Ints = columns.indices.reshape(family.num_units, int(widths[0])).astype(np.int64)
    return index
