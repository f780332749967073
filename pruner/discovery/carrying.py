"""Carries what was found in one decoder layer over to those like it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from pruner.discovery.arguments import SEPARATOR
from pruner.discovery.families import Family
from pruner.discovery.layers import lies_in
from pruner.discovery.operation import States
from pruner.discovery.repeating import Kinds
from pruner.discovery.solving import Ints
from pruner.discovery.structure import Refusal
from pruner.groups import Group

Streams = Sequence[Sequence[tuple[Tensor, Tensor]]]
"""The residual stream before and after every layer of every kind."""


def carries(families: Sequence[Family], states: States, kinds: Kinds, streams: Streams) -> bool:
    """Whether one layer of every kind speaks for all.

    The stream must leave each as it came, and be the same for all of a kind; the first layer, the second
    and the last must have the same families.
    """
    held = classes_of_parameters(families)
    for names, through in zip(kinds, streams):
        looks = {look_of(tensor, held, families[0], states) for pair in through for tensor in pair}
        found = [families_in(families, name) for name in (*names[:2], names[-1])]
        if len(looks) != 1 or found[0] != found[1] or found[0] != found[2]:
            return False
    return True


def classes_of_parameters(families: Iterable[Family]) -> Ints:
    """The classes of which parameters have atoms; tokens, of which arguments alone have, are in none."""
    found = [
        family.class_of[piece.axis.first + piece.index.reshape(-1)]
        for family in families
        for piece in family.pieces
        if SEPARATOR not in piece.axis.name
    ]
    return np.unique(np.concatenate(found))


def look_of(tensor: Tensor, held: Ints, family: Family, states: States) -> Hashable:
    """The classes that a tensor's labels are in, axis by axis."""
    found = [(dim, family.class_of[labels]) for dim, labels in states.of(tensor).facets]
    return frozenset((dim, classes.tobytes()) for dim, classes in found if np.isin(classes, held).any())


def families_in(families: Iterable[Family], layer: str) -> Counter[Hashable]:
    """The families as far as they lie in a layer, in words that are the same for layers alike."""
    found: Counter[Hashable] = Counter()
    for family in families:
        within = [piece for piece in family.pieces if lies_in(piece.axis.name, layer)]
        pieces = tuple(
            (moved(piece.axis.name, layer, ""), piece.axis.dim, piece.reads, piece.index.tobytes())
            for piece in within
        )
        if any(SEPARATOR not in piece.axis.name for piece in within):
            found[(pieces, family.num_units, family.factor, frozenset(family.marks))] += 1
    return found


def moved(name: str, layer: str, other: str) -> str:
    """The name of the same thing in another layer."""
    return other + name[len(layer) :] if lies_in(name, layer) else name


def spoken_for(kinds: Kinds) -> dict[str, str]:
    """Layer -> the first of its kind, which speaks for it."""
    return {name: names[0] for names in kinds for name in names[1:]}


def carried(found: Sequence[Group], kinds: Kinds, layers: Sequence[str]) -> list[Group]:
    """The groups of the layers that others speak for."""
    number = {name: n for n, name in enumerate(layers)}
    return [
        replace(in_layer(group, like, name), layer=number[name])
        for name, like in spoken_for(kinds).items()
        for group in found
        if group.layer == number[like]
    ]


def in_layer(group: Group, layer: str, other: str) -> Group:
    """A group of one layer as the group of another."""
    return replace(
        group,
        name=moved(group.name, layer, other),
        slices=tuple(replace(each, name=moved(each.name, layer, other)) for each in group.slices),
        counts=tuple(replace(each, module=moved(each.module, layer, other)) for each in group.counts),
        norms=tuple(replace(each, module=moved(each.module, layer, other)) for each in group.norms),
        arguments=tuple(replace(each, module=moved(each.module, layer, other)) for each in group.arguments),
    )


def carried_refusals(found: Sequence[Refusal], kinds: Kinds) -> list[Refusal]:
    """What is refused of the layers that others speak for."""
    return [
        replace(refusal, name=moved(refusal.name, like, name))
        for name, like in spoken_for(kinds).items()
        for refusal in found
        if lies_in(refusal.name, like)
    ]
