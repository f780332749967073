"""The model followed once: recorded, propagated and solved, with layers that are alike left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pruner.discovery.arguments import argument_tables, constants_in_the_way, propagate_with_arguments
from pruner.discovery.carrying import carries
from pruner.discovery.constraints import Constraints
from pruner.discovery.events import Interrupted, Recording
from pruner.discovery.families import Family, families_of
from pruner.discovery.labels import State
from pruner.discovery.layers import decoder_layers
from pruner.discovery.likeness import alike
from pruner.discovery.operation import States
from pruner.discovery.recording import record
from pruner.discovery.repeating import Kinds, Unlike, closed, repeated, streams
from pruner.discovery.solving import solve
from pruner.discovery.twin import meta_twin
from pruner.discovery.values import Values

FEWEST_ALIKE = 4
"""Of fewer layers all would run."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The model followed once.

    Attributes:
        twin: its copy on the meta device.
        recording: what ran.
        states: the labels of every tensor.
        families: the units that were found.
        layers: names of the decoder layers.
        kinds: of these, those that are alike and of which not all ran.
    """

    twin: nn.Module
    recording: Recording
    states: States
    families: list[Family]
    layers: tuple[str, ...]
    kinds: Kinds = ()


def follow(model: nn.Module, inputs: Mapping[str, Any]) -> Trace:
    """Record, propagate, solve; layers that are alike are run but three times, where that tells the same."""
    twin, values = twin_of(model)
    layers = decoder_layers(twin)
    kinds = [names for names in alike(twin, layers, values) if len(names) >= FEWEST_ALIKE]
    short = follow_repeating(twin, values, inputs, kinds) if kinds else None
    if short is not None:
        return short
    try:
        return follow_whole(*twin_of(model), inputs)
    except Interrupted as interruption:
        raise interruption.error from None


def twin_of(model: nn.Module) -> tuple[nn.Module, Values]:
    """The model on the meta device, and what is known of its constants."""
    twin, constants = meta_twin(model)
    values = Values()
    for tensor, value in constants:
        values.learn(tensor, value)
    return twin, values


def follow_whole(twin: nn.Module, values: Values, inputs: Mapping[str, Any], kinds: Kinds = ()) -> Trace:
    """Record, propagate, solve.

    Args:
        twin: the model on the meta device.
        values: of its constants.
        inputs: arguments of its `forward`.
        kinds: layers that are alike: only the first two and the last run.

    Raises:
        Interrupted: the model's own code failed.
    """
    recording = record(twin, (), inputs, values, repeats=repeated(kinds))
    layers = decoder_layers(twin, {call.name for call in recording.calls})
    constraints, states = labelled(twin, recording, values, layers, set())
    in_the_way = constants_in_the_way(recording, constraints.marks, layers)
    if in_the_way:
        constraints, states = labelled(twin, recording, values, layers, in_the_way)
    families = families_of(constraints, solve(constraints))
    return Trace(twin, recording, states, families, layers, kinds)


def follow_repeating(
    twin: nn.Module, values: Values, inputs: Mapping[str, Any], kinds: Kinds
) -> Trace | None:
    """`follow_whole` with repeats; None where a layer is tied to others by more than the residual stream."""
    layers = decoder_layers(twin)
    try:
        trace = follow_whole(twin, values, inputs, kinds)
        through = streams(trace.recording, kinds)
    except (Interrupted, Unlike):  # such as model code that misses what a layer left behind
        return None
    right = (
        trace.layers == layers
        and closed(trace.recording, kinds, twin)
        and carries(trace.families, trace.states, kinds, through)
    )
    return trace if right else None


def labelled(
    twin: nn.Module, recording: Recording, values: Values, layers: tuple[str, ...], arguments: set[int]
) -> tuple[Constraints, States]:
    """Follow the labels through a recording, with atoms for some of the layers' arguments."""
    constraints = Constraints()
    states = States(twin, constraints, values)
    for table in argument_tables(recording, twin, layers):
        states.named.pop(table, None)
    for tensor in recording.inputs:
        states.set(tensor, State())
    propagate_with_arguments(recording, states, layers, arguments)
    return constraints, states
