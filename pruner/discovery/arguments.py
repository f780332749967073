"""Constants that layers are called with and that vary along their units, such as ALiBi's slopes.

Each surviving head must keep its own slope, so such an argument is given atoms like a parameter, anew for
every layer, and is cut with what it meets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from pruner.discovery.constraints import Mark
from pruner.discovery.events import Event, ModuleCall, Recording
from pruner.discovery.families import Family
from pruner.discovery.labels import State
from pruner.discovery.layers import layer_of
from pruner.discovery.operation import States
from pruner.discovery.propagation import propagate
from pruner.groups import ArgumentSlice

SEPARATOR = ":"
"""Between a module's name and its argument's, where an axis is an argument's."""


def constants_in_the_way(recording: Recording, marks: Iterable[Mark], layers: Sequence[str]) -> set[int]:
    """Identities of the layers' arguments from which the constants come that marks name."""
    makers = {id(output): event for event in recording.events for output in event.outputs}
    arguments = layer_arguments(recording, layers)
    wanted = [mark.tensor for mark in marks if mark.kind == "constant" and mark.tensor is not None]
    found: set[int] = set()
    seen: set[int] = set()
    while wanted:
        tensor = wanted.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in arguments:
            found.add(id(tensor))
        elif id(tensor) in makers:
            wanted += makers[id(tensor)].tensors
    return found


def argument_tables(recording: Recording, twin: nn.Module, layers: Sequence[str]) -> set[int]:
    """Identities of the buffers outside the layers of which layers' arguments are made, and of no weight.

    Such a table is a constant, like one computed anew: each layer keeps its own part of it, and what one
    layer loses it does not lose for the others.
    """
    makers = {id(output): event for event in recording.events for output in event.outputs}
    weights = {id(parameter) for parameter in twin.parameters()}
    tables = {id(buffer) for name, buffer in twin.named_buffers() if layer_of(name, layers) is None}
    found: set[int] = set()
    for argument in layer_arguments(recording, layers).values():
        sources = made_of(argument, makers)
        if not sources & weights:
            found |= sources & tables
    return found


def made_of(tensor: Tensor, makers: Mapping[int, Event]) -> set[int]:
    """Identities of all tensors from which one was computed, itself among them."""
    seen: set[int] = set()
    left = [tensor]
    while left:
        current = left.pop()
        if id(current) not in seen:
            seen.add(id(current))
            left += makers[id(current)].tensors if id(current) in makers else ()
    return seen


def layer_calls(recording: Recording, layers: Sequence[str]) -> list[ModuleCall]:
    """The calls of decoder layers, in order."""
    names = set(layers)
    return [call for call in recording.calls if call.name in names]


def layer_arguments(recording: Recording, layers: Sequence[str]) -> dict[int, Tensor]:
    """The tensors that layers are called with by name, by their identity."""
    calls = layer_calls(recording, layers)
    return {id(tensor): tensor for call in calls for tensor in named_arguments(call).values()}


def named_arguments(call: ModuleCall) -> dict[str, Tensor]:
    """The tensors that a module is called with by name."""
    return {name: value for name, value in call.kwargs.items() if isinstance(value, Tensor)}


def propagate_with_arguments(
    recording: Recording, states: States, layers: Sequence[str], labelled: set[int]
) -> None:
    """`propagate`, giving these arguments atoms of their own while a layer runs."""
    done = 0
    for call in layer_calls(recording, layers) if labelled else ():
        mine = {name: t for name, t in named_arguments(call).items() if id(t) in labelled}
        propagate(recording.events[done : call.first], states)
        before = [(tensor, states.of(tensor)) for tensor in mine.values()]
        for name, tensor in mine.items():
            facets = states.constraints.own(f"{call.name}{SEPARATOR}{name}", tensor.shape)
            states.set(tensor, State(facets, "constant"))
        propagate(recording.events[call.first : call.last], states)
        for tensor, state in before:
            states.set(tensor, state)
        done = call.last
    propagate(recording.events[done:], states)


def argument_slices(family: Family) -> tuple[ArgumentSlice, ...]:
    """What the units own of arguments."""
    found = []
    for piece in family.pieces:
        module, _, argument = piece.axis.name.partition(SEPARATOR)
        if argument:
            found.append(ArgumentSlice(module, argument, piece.axis.dim, piece.axis.size, piece.index))
    return tuple(found)
