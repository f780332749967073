"""Whole decoder layers as units: those that a model runs without, on the residual stream as it came."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping

from torch import Tensor
from torch.utils._pytree import tree_leaves

from pruner.depth import remove_layers
from pruner.discovery.carrying import classes_of_parameters, look_of
from pruner.discovery.events import Event, Interrupted, ModuleCall, Recording
from pruner.discovery.following import Trace
from pruner.discovery.foretelling import Foretold, compare, compared, name_of, scalars
from pruner.discovery.recording import record
from pruner.discovery.repeating import closed, repeated, stream_out
from pruner.groups import Group

NAME = "layers"


def layer_group(trace: Trace) -> Group | str:
    """The group whose units are the decoder layers, or why these cannot go one by one."""
    calls = [call for call in trace.recording.calls if call.name in trace.layers]
    if [call.name for call in calls] != list(trace.layers):
        return "the layers do not run one after the other, each once"
    shared = Counter(id(leaf) for call in calls for leaf in set(tensors_given(call)))
    for call in calls:
        trouble = hinders(trace, call, shared)
        if trouble is not None:
            return trouble
    if not closed(trace.recording, [trace.layers], trace.twin):
        return "more than the residual stream passes from layer to layer"
    group = Group(NAME, "layer", None, len(trace.layers), (), modules=trace.layers)
    trouble = without_some(trace, group)
    return group if trouble is None else trouble


def tensors_given(call: ModuleCall) -> list[Tensor]:
    """The tensors that a module is called with."""
    return [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]


def hinders(trace: Trace, call: ModuleCall, shared: Mapping[int, int]) -> str | None:
    """Why a layer is no step on the residual stream, None if it is one.

    Args:
        trace: of the model.
        call: of the layer.
        shared: identity of a tensor -> how many layers are called with it.
    """
    held = classes_of_parameters(trace.families)
    after = stream_out(call)
    look = look_of(after, held, trace.families[0], trace.states)
    through = False
    for tensor in tensors_given(call):
        if tensor.shape == after.shape and look_of(tensor, held, trace.families[0], trace.states) == look:
            through = True
        elif trace.states.of(tensor).facets and shared[id(tensor)] == 1:
            return f"{call.name} is called with something of its own beside the residual stream"
    return None if through else f"{call.name} does not return the residual stream that it is called with"


def without_some(trace: Trace, group: Group) -> str | None:
    """Run the twin without all layers that were left out and every other one that ran; what goes wrong."""
    idle = repeated(trace.kinds)
    ran = [unit for unit, name in enumerate(trace.layers) if name not in idle]
    gone = {trace.layers[unit] for unit in range(group.num_units) if unit not in ran[::2]}
    foretold: Foretold = [
        (name_of(event), tuple(event.outputs[0].shape), scalars(event), event.place)
        for event in outside(trace.recording, gone)
        if compared(event)
    ]
    shorter = copy.deepcopy(trace.twin)
    remove_layers(shorter, [group], {group.name: ran[::2]})
    root, failure = trace.recording.calls[0], None
    try:
        recording = record(shorter, root.args, root.kwargs, trace.states.values)
    except Interrupted as interruption:
        recording, failure = interruption.recording, interruption.error
    return compare(recording.events, foretold, failure)[1]


def outside(recording: Recording, layers: set[str]) -> list[Event]:
    """The events that belong to none of these layers."""
    inside = {n for call in recording.calls if call.name in layers for n in range(call.first, call.last)}
    return [event for n, event in enumerate(recording.events) if n not in inside]
