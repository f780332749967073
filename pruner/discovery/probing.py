"""Finds the numbers on modules that a cut must change, by cutting the twin and running the layer again.

A layer that was cut rightly runs the same operators as before, on tensors whose sizes the labels foretell,
with the same scalars. Where it does not, some number on some module still says the old width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from pruner.discovery.events import Interrupted
from pruner.discovery.families import Family
from pruner.discovery.foretelling import Foretold, Probe, compare, foretell
from pruner.discovery.layers import lies_in
from pruner.discovery.recording import record
from pruner.discovery.solving import Ints
from pruner.groups import Count, Group, Kept
from pruner.slicing import (
    believe_own_weights,
    lost_arguments,
    lost_counts,
    lost_indices,
    set_counts,
    slice_argument,
    slice_tensors,
    take_as_given,
)

MOST_ROUNDS = 6
IDENTIFIERS = ("_id", "_idx", "_index", "vocab_size", "num_hidden_layers")
"""Ends of names of numbers that tell one thing from another, or count something else."""


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
    """The counts with those more that get the layer furthest, how far, and what happens then.

    One more, or two of a module at once where no one does: sizes of a split must change together to sum to
    the whole.
    """
    taken = {(count.module, count.attribute) for count in chosen}
    best = None
    for together, in_config in ((1, False), (1, True), (2, False)):
        free = [
            count
            for count in candidates
            if count.attribute.startswith("config.") == in_config
            and (count.module, count.attribute) not in taken
        ]
        for more in itertools.combinations(free, together):
            if len({count.module for count in more}) > 1:
                continue
            reached, trouble = run(probe, group, (*chosen, *more), foretold)
            if reached > progress:
                progress, best = reached, ((*chosen, *more), reached, trouble)
            if trouble is None:
                return best
        if best is not None:
            return best
    return best


def run(probe: Probe, group: Group, counts: tuple[Count, ...], foretold: Foretold) -> tuple[int, str | None]:
    """How many operators run as foretold, and what happens then; None if all do."""
    kept = {group.name: np.setdiff1d(np.arange(group.num_units), probe.units).tolist()}
    call = probe.layer
    with cut(probe.twin, replace(group, counts=counts), kept, call.name):
        try:
            module, values = probe.twin.get_submodule(call.name), probe.states.values
            recording = record(module, call.args, call.kwargs, values, call.name, probe.repeats)
            failure = None
        except Interrupted as interruption:
            recording, failure = interruption.recording, interruption.error
        first = recording.calls[0].first if recording.calls else 0  # after what cuts its arguments
        return compare(recording.events[first:], foretold, failure)


@contextmanager
def cut(twin: nn.Module, group: Group, kept: Kept, layer: str) -> Iterator[None]:
    """Cut one layer of the twin for a while."""
    modules = list(twin.get_submodule(layer).modules())
    attributes = [(module, dict(vars(module)), dict(module._forward_pre_hooks)) for module in modules]
    tensors = [
        (t, t.data) for module in modules for t in itertools.chain(module.parameters(), module.buffers())
    ]
    take_as_given(twin.get_submodule(layer))
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
        if any(lies_in(name, layer) for layer in probe.repeats):
            continue
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
