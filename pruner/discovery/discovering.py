"""From a causal language model to its groups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from pruner.discovery.admission import (
    arguments_for,
    check_head,
    check_settled,
    check_together,
    check_weights,
)
from pruner.discovery.arguments import SEPARATOR, argument_slices
from pruner.discovery.carrying import carried, carried_refusals, spoken_for
from pruner.discovery.depth import layer_group
from pruner.discovery.events import ModuleCall, Recording
from pruner.discovery.experts import settled
from pruner.discovery.families import Family, refusal
from pruner.discovery.following import Trace, follow
from pruner.discovery.foretelling import Probe
from pruner.discovery.kinds import headed_places, is_query, kind_of, stream_of
from pruner.discovery.layers import layer_of, lies_in, owner_of
from pruner.discovery.norms import find_norms
from pruner.discovery.probing import find_counts
from pruner.discovery.stream import hidden_group
from pruner.discovery.structure import Refusal, Structure
from pruner.discovery.twin import token_inputs
from pruner.groups import Group, Kind, Slice, with_shares

WITHIN_LAYERS: tuple[Kind, ...] = ("mlp", "attention", "query", "expert")
"""The kinds of groups that lie in one layer each."""


def discover(
    model: nn.Module, inputs: Mapping[str, Any] | None = None, kinds: Collection[Kind] = WITHIN_LAYERS
) -> Structure:
    """Trace one forward pass of a copy on the meta device and solve for the model's groups.

    The model itself is not touched and may lie on any device, the meta device included.

    Args:
        model: a causal language model, pruned already or not.
        inputs: arguments of its `forward`, for a model that does not run on `input_ids` alone.
        kinds: what to look for. The channels of the residual stream, "hidden", are one group of that
            name; the decoder layers, "layer", are one named "layers".

    Raises:
        ValueError: what the model computes depends on its data in a way that one trace cannot tell.
    """
    check_weights(model)
    check_together(model)
    trace = follow(model, arguments_for(model, inputs or token_inputs()))
    check_head(model, trace.recording.calls[0].output)
    check_settled(model, trace.twin)
    found = list(search(trace, kinds))
    groups = [each for each in found if isinstance(each, Group)]
    refused = [each for each in found if isinstance(each, Refusal)]
    groups += carried(groups, trace.kinds, trace.layers)
    refused += carried_refusals(refused, trace.kinds)
    groups.sort(key=lambda group: -1 if group.layer is None else group.layer)
    return Structure(with_shares(groups), trace.layers, tuple(refused))


def search(trace: Trace, kinds: Collection[Kind]) -> Iterator[Group | Refusal]:
    """The groups of these kinds and what is refused, but for the layers that others speak for."""
    spoken = spoken_for(trace.kinds)
    candidates = named(trace)
    for refused in (*spanning(trace), *detached(trace, [group for _, group in candidates])):
        if not any(lies_in(refused.name, layer) for layer in spoken):
            yield refused
    if "hidden" in kinds:
        yield or_refusal("hidden", hidden_group(trace))
    if "layer" in kinds:
        yield or_refusal("layers", layer_group(trace))
    for family, group in candidates:
        if group.kind in kinds and (group.layer is None or trace.layers[group.layer] not in spoken):
            yield or_refusal(group.name, complete(trace, family, group))


def or_refusal(name: str, found: Group | str) -> Group | Refusal:
    """A group, or the refusal for the reason why there is none."""
    return Refusal(name, found) if isinstance(found, str) else found


def named(trace: Trace) -> list[tuple[Family, Group]]:
    """The families that have a kind, as groups with names; what they need of modules is still open."""
    stream, headed = stream_of(trace.families, trace.layers), headed_places(trace.families)
    found: list[tuple[Family, Kind, str]] = []
    for family in trace.families:
        parameters = [p for p in family.pieces if SEPARATOR not in p.axis.name]
        if not parameters:
            continue
        owner = owner_of([piece.axis.name for piece in parameters])
        kind = kind_of(family, stream, headed)
        if kind is not None and layer_of(owner, trace.layers) is not None:
            found.append((family, kind, owner))
    attention = [family for family, kind, _ in found if kind == "attention"]
    groups: list[tuple[Family, Group]] = []
    taken: set[str] = set()
    for family, kind, owner in sorted(found, key=lambda entry: -len(entry[0].pieces)):
        if kind == "attention" and is_query(family, attention):
            kind = "query"
        name = next(name for name in names_for(owner, kind) if name not in taken)
        taken.add(name)
        groups.append((family, group_of(family, kind, name, layer_of(owner, trace.layers))))
    return groups


def spanning(trace: Trace) -> list[Refusal]:
    """Heads of no single layer: several share a table of positions, or they lie outside the layers."""
    found = []
    for family in trace.families:
        names = [piece.axis.name for piece in family.pieces if SEPARATOR not in piece.axis.name]
        if (
            not {"batch", "reads"} <= family.marks.keys()
            or layer_of(owner_of(names), trace.layers) is not None
        ):
            continue
        tied = any(layer_of(name, trace.layers) is not None for name in names)
        what = f"{names[0]} ties the heads of several layers" if tied else "the heads lie outside the layers"
        found.append(Refusal(owner_of(names), f"{what} {trace.layers[0]}, ..."))
    return found


def detached(trace: Trace, found: Collection[Group]) -> list[Refusal]:
    """Heads that a layer without others contracts into something else than the residual stream."""
    headed = {group.layer for group in found if group.kind == "attention"}
    refused = []
    for family in trace.families:
        names = [piece.axis.name for piece in family.pieces if SEPARATOR not in piece.axis.name]
        read = [piece.axis.name for piece in family.pieces if piece.reads]
        if (
            "batch" in family.marks
            and read
            and layer_of(owner_of(names), trace.layers) not in {None, *headed}
        ):
            why = f"{read[0]} contracts the heads into something else than the residual stream"
            refused.append(Refusal(owner_of(names), why))
    return refused


def group_of(family: Family, kind: Kind, name: str, layer: int | None) -> Group:
    """A family as a group."""
    slices = tuple(
        Slice(piece.axis.name, piece.axis.dim, piece.index, piece.reads)
        for piece in family.pieces
        if SEPARATOR not in piece.axis.name
    )
    return Group(name, kind, layer, family.num_units, slices, arguments=argument_slices(family))


def names_for(owner: str, kind: Kind) -> list[str]:
    """Names for a group, the plainest first."""
    plain = [] if kind == "query" else [owner]
    return [*plain, f"{owner}.{kind}", *(f"{owner}.{kind}_{number}" for number in range(2, 100))]


def complete(trace: Trace, family: Family, group: Group) -> Group | str:
    """The group with all that its modules need, or why it is refused."""
    trouble = refusal(family)
    if trouble is not None:
        return trouble
    norms = find_norms(
        family, family.marks.get("averaged", ()), trace.recording.calls, trace.states, trace.twin
    )
    if isinstance(norms, str):
        return norms
    probe = probe_of(trace, family, group)
    counts = find_counts(probe, group)
    if isinstance(counts, str):
        return counts
    completed = replace(group, counts=counts, norms=norms)
    return settled(completed, probe) if group.kind == "expert" else completed


def probe_of(trace: Trace, family: Family, group: Group) -> Probe:
    """Cut every other unit of the family in the layer that holds it."""
    assert group.layer is not None
    call = call_of(trace.recording, trace.layers[group.layer])
    events = trace.recording.events[call.first : call.last]
    units = np.arange(1, family.num_units, 2) if family.num_units > 1 else np.zeros(0, np.int64)
    return Probe(trace.twin, call, events, trace.states, family, units, {})


def call_of(recording: Recording, name: str) -> ModuleCall:
    """The first call of a module."""
    return next(call for call in recording.calls if call.name == name)
