"""Experts of a mixture as units: without one, a router is as if it gave that one minus infinity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pruner.discovery.foretelling import Probe
from pruner.discovery.probing import units_along, whole_numbers
from pruner.groups import Count, Group
from pruner.slicing import named_tensor

STACKED = 3
"""Axes of a parameter that holds the weights of all experts: expert, output, input."""


def settled(group: Group, probe: Probe) -> Group | str:
    """A group of experts with their counts, and how many the router needs; or why they cannot go."""
    sizes = {piece.name: named_tensor(probe.twin, piece.name).dim() for piece in group.slices}
    if max(sizes.values()) < STACKED:
        return (
            f"{', '.join(sizes)} has a row for every expert, but the weights of the experts were not seen "
            "to go with it"
        )
    needed = most_chosen(probe)
    if needed is None:
        return "no operator chooses among the experts by their scores"
    taken = {(count.module, count.attribute) for count in group.counts}
    numbers = [count for count in numbers_of_experts(group, probe) if place(count) not in taken]
    return replace(group, counts=(*group.counts, *numbers), fewest=needed)


def place(count: Count) -> tuple[str, str]:
    """What a count is of."""
    return (count.module, count.attribute)


def most_chosen(probe: Probe) -> int | None:
    """How many experts are chosen for a token, None if nothing chooses."""
    found = []
    for event in probe.events:
        if event.name == "topk" and len(event.args) > 1:
            source = event.args[0]
            labels = probe.states.of(source).on(source.dim() - 1)
            if any(units_along(probe.family, each) is not None for each in labels):
                found.append(int(event.args[1]))
    return max(found, default=None)


def numbers_of_experts(group: Group, probe: Probe) -> list[Count]:
    """The numbers of experts on modules: other ways to compute experts than the traced one read these."""
    units = np.arange(group.num_units)[:, None]
    layer = probe.twin.get_submodule(probe.layer.name)
    return [
        Count(name, attribute, number, units)
        for name, module in layer.named_modules(prefix=probe.layer.name)
        for attribute, number in whole_numbers(module)
        if number == group.num_units and attribute.endswith("experts") and "." not in attribute
    ]
