"""What tracing learns: atoms, and which of them fall together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pruner.discovery.labels import Facet, Labels, spread

MarkKind = Literal["frozen", "constant", "averaged", "compared", "reads", "batch", "chosen"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a parameter, a buffer or a module's argument: atoms `first` .. `first + size - 1`."""

    name: str
    dim: int
    first: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """Something seen of atoms.

    Attributes:
        kind: "frozen", cannot go; "constant", a constant tensor without labels of its own varies along
            them; "averaged", their number enters a mean; "compared", they enter a softmax or an order;
            "reads", a parameter contracts them; "batch",
            two activations are multiplied separately for each of them; "chosen", indices select them.
        labels: the atoms.
        reason: operator and line of the model's code.
        tensor: for "constant", the tensor.
        module: where it was seen.
    """

    kind: MarkKind
    labels: Labels
    reason: str
    module: str
    tensor: Tensor | None = None


@dataclass(slots=True)
class Constraints:
    """Atoms and the rules between them, collected while operators are followed.

    Attributes:
        num_atoms: atoms so far; atom 0 is no atom.
        axes: the axes that own atoms from the start.
        unions: pairs of labels that fall together.
        definitions: a label and the labels of which any one takes it away.
        marks: what else was seen.
        place, module: where the operator stands that is being followed.
    """

    num_atoms: int = 1
    axes: list[Axis] = field(default_factory=list)
    unions: list[tuple[Labels, Labels]] = field(default_factory=list)
    definitions: list[tuple[Labels, list[Labels]]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    place: str = ""
    module: str = ""

    def fresh(self, size: int) -> Labels:
        """New atoms."""
        labels = np.arange(self.num_atoms, self.num_atoms + size)
        self.num_atoms += size
        return labels

    def own(self, name: str, shape: Sequence[int]) -> tuple[Facet, ...]:
        """Give every index of every axis of a parameter an atom of its own."""
        facets = []
        for dim, size in enumerate(shape):
            self.axes.append(Axis(name, dim, self.num_atoms, size))
            labels = self.fresh(size)
            if size > 1:
                facets.append((dim, labels))
        return tuple(facets)

    def union(self, one: Labels, other: Labels) -> Labels:
        """Atoms at the same place fall together; returns the older of each two."""
        differ = (one != 0) & (other != 0) & (one != other)
        if differ.any():
            self.unions.append((one[differ], other[differ]))
        return np.where((one != 0) & (other != 0), np.minimum(one, other), np.maximum(one, other))

    def define(self, target: Labels, factors: Sequence[Labels]) -> None:
        """Each atom of `target` falls exactly when one of the `factors` at its place does."""
        there = target != 0
        self.definitions.append((target[there], [factor[there] for factor in factors]))

    def mark(self, kind: MarkKind, labels: Labels, what: str = "", tensor: Tensor | None = None) -> None:
        """Note something about atoms, with the operator's place."""
        reason = f"{what} at {self.place}" if self.place else what
        self.marks.append(Mark(kind, np.unique(labels[labels != 0]), reason, self.module, tensor))

    def factorise(self, labels: Tensor) -> list[Facet]:
        """Write a tensor with a label per element as labels along single axes.

        Where labels vary along several axes (channels viewed as heads by dimensions) a cut must stay
        rectangular: every such axis gets new atoms, and an element falls when one of its axes' does.
        """
        for dim in range(labels.dim()):
            if labels.size(dim) > 1 and labels.stride(dim) == 0:
                labels = labels.narrow(dim, 0, 1)
        if labels.numel() == 0 or not bool(labels.any()):
            return []
        varying = []
        for dim in range(labels.dim()):
            if labels.size(dim) == 1:
                continue
            most = labels.amax(dim, keepdim=True)
            if bool(((labels == most) | (labels == 0)).all()):
                labels = most
            else:
                varying.append(dim)
        flat = labels.reshape(-1).numpy()
        if not varying:
            self.mark("frozen", flat, "a single index is taken")
            return []
        if len(varying) == 1:
            return [(varying[0], flat.copy())]
        facets = [(dim, self.fresh(labels.size(dim))) for dim in varying]
        self.define(flat, [spread(facet, labels.shape).reshape(-1).numpy() for facet in facets])
        return facets

    def factorise_along(self, labels: Labels, *shape: int) -> dict[int, list[Labels]]:
        """`factorise` for an axis that is read as several, by their number."""
        facets = self.factorise(torch.from_numpy(labels).view(shape))
        return {dim: [found for axis, found in facets if axis == dim] for dim in range(len(shape))}
