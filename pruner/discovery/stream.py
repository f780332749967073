"""The residual stream's channels, through all layers: LLM-Pruner's channel-wise mode (Ma et al. 2023, 3.1).

Under a root-mean-square norm removing channels equals zeroing them, once the norm is rescaled. Under a layer
norm it does not, for the mean is one over fewer: what is left is the model built at the smaller width.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from pruner.discovery.carrying import in_layer
from pruner.discovery.constraints import Mark
from pruner.discovery.families import Family, refusal
from pruner.discovery.following import Trace
from pruner.discovery.foretelling import Probe
from pruner.discovery.kinds import places_of, stream_of
from pruner.discovery.norms import find_norms
from pruner.discovery.probing import find_counts
from pruner.discovery.repeating import Kinds, repeated
from pruner.discovery.solving import Ints
from pruner.groups import Group, Slice

NAME = "hidden"


def hidden_group(trace: Trace) -> Group | str:
    """The group whose units are the stream's channels, or why there is none."""
    family = stream_family(trace)
    if family is None:
        return "no channels go through the layers"
    trouble = refusal(family)
    if trouble is not None:
        return trouble
    norms = find_norms(family, rescaled(trace, family), trace.recording.calls, trace.states, trace.twin)
    if isinstance(norms, str):
        return norms
    slices = tuple(Slice(p.axis.name, p.axis.dim, p.index, p.reads) for p in family.pieces)
    group = Group(NAME, "hidden", None, family.num_units, slices, norms=norms)
    counts = find_counts(whole_probe(trace, family), group)
    if isinstance(counts, str):
        return counts
    return in_all_layers(replace(group, counts=counts), trace.kinds)


def stream_family(trace: Trace) -> Family | None:
    """The family that goes through the layers."""
    places = stream_of(trace.families, trace.layers)
    return next((family for family in trace.families if places and places_of(family) == places), None)


def rescaled(trace: Trace, family: Family) -> list[Mark]:
    """The averages over the stream that have to be made up for: all but those of layer norms."""
    marks = family.marks.get("averaged", ())
    return [m for m in marks if not isinstance(trace.twin.get_submodule(m.module), nn.LayerNorm)]


def whole_probe(trace: Trace, family: Family) -> Probe:
    """Cut every other channel in all layers that ran."""
    units: Ints = np.arange(1, family.num_units, 2)
    model = next(call for call in trace.recording.calls if call.name == "")
    repeats = repeated(trace.kinds)
    return Probe(trace.twin, model, trace.recording.events, trace.states, family, units, repeats)


def in_all_layers(group: Group, kinds: Kinds) -> Group:
    """The group with what belongs to it in the layers that did not run."""
    slices, counts, norms = list(group.slices), list(group.counts), list(group.norms)
    for name, like in repeated(kinds).items():
        there = in_layer(group, like, name)
        slices += [new for new, old in zip(there.slices, group.slices) if new.name != old.name]
        counts += [new for new, old in zip(there.counts, group.counts) if new.module != old.module]
        norms += [new for new, old in zip(there.norms, group.norms) if new.module != old.module]
    return replace(group, slices=tuple(slices), counts=tuple(counts), norms=tuple(norms))
