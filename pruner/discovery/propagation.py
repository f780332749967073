"""Carries labels through a recorded forward pass, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pruner.discovery.events import Event
from pruner.discovery.labels import Facet, State, by_axis, facets_of, spread
from pruner.discovery.operation import Operation, States
from pruner.discovery.rules import rule_for, unknown


def propagate(events: Iterable[Event], states: States) -> None:
    """Follow the labels through operators in order.

    Args:
        events: from a recording.
        states: of parameters and inputs; receives those of all that is computed.
    """
    constraints = states.constraints
    for event in events:
        constraints.place, constraints.module = event.place, event.module
        operation = Operation(event, states, constraints)
        rule = rule_for(operation)
        lost = next((states.lost[id(tensor)] for tensor in event.tensors if id(tensor) in states.lost), None)
        if rule is unknown:
            lost = f"{event.name} at {event.place} is an operator without a rule"
        for output, state in zip(event.outputs, rule(operation)):
            if lost is not None and not state.facets:
                states.lost[id(output)] = lost
            if event.in_place:
                write_back(operation, output, state)
                state = State(state.facets, state.origin, states.of(output).parameter, state.space)
            states.set(output, state)


def write_back(operation: Operation, view: Tensor, state: State) -> None:
    """A view was overwritten: its base takes on the labels at the places that both share."""
    base = view._base
    if base is None or not state.facets:
        return
    start = base.storage_offset()
    steps = sum((n - 1) * step for n, step in zip(base.shape, base.stride()))
    size = int(start + 1 + steps) if base.numel() else 0
    places = torch.arange(size)
    seen = places.as_strided(view.shape, view.stride(), view.storage_offset()).reshape(-1)
    whole = places.as_strided(base.shape, base.stride(), start)
    written: list[Facet] = []
    for facet in state.facets:
        labels = torch.zeros(size, dtype=torch.long)
        labels[seen] = spread(facet, view.shape).reshape(-1)
        written += operation.constraints.factorise(labels[whole])
    before = operation.states.of(base)
    axes = operation.met([before.axes(), by_axis(written)])
    operation.states.set(base, State(facets_of(axes), "data", before.parameter))
