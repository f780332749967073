"""What a traced tensor knows of itself: which atoms own the indices of its axes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[np.int64]
"""One atom for every index of an axis, (size,) int64; 0 where an index has none."""

Facet = tuple[int, Labels]
"""An axis and the labels along it. An axis may carry several: an element falls when any of its atoms does."""

Axes = dict[int, list[Labels]]
"""The facets of a tensor by axis."""

Origin = Literal["data", "constant", "uniform"]
"""Computed from the model's input or weights; from constants alone; the same number everywhere."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """The labels of one tensor.

    Attributes:
        facets: the labelled axes.
        origin: what its values come from.
        parameter: a view of a parameter, so that contracting one of its axes reads an activation.
        space: for a tensor of indices, the labels of the axis that these index.
    """

    facets: tuple[Facet, ...] = ()
    origin: Origin = "data"
    parameter: bool = False
    space: tuple[Labels, ...] | None = None

    def axes(self) -> Axes:
        """The facets by axis, lists new for each call."""
        return by_axis(self.facets)

    def on(self, dim: int) -> list[Labels]:
        """The labels along one axis."""
        return [labels for axis, labels in self.facets if axis == dim]


UNLABELLED = State()
CONSTANT = State(origin="constant")
UNIFORM = State(origin="uniform")


def by_axis(facets: Iterable[Facet]) -> Axes:
    """Collect facets by axis."""
    axes: Axes = {}
    for dim, labels in facets:
        axes.setdefault(dim, []).append(labels)
    return axes


def facets_of(axes: Axes) -> tuple[Facet, ...]:
    """The inverse of `by_axis`."""
    return tuple((dim, labels) for dim, lists in axes.items() for labels in lists)


def spread(facet: Facet, shape: Iterable[int]) -> Tensor:
    """A facet as a tensor of labels, one per element of a tensor of this shape; takes no memory."""
    dim, labels = facet
    sizes = list(shape)
    thin = [1] * len(sizes)
    thin[dim] = len(labels)
    return torch.from_numpy(labels).view(thin).expand(sizes)


def pattern(labels: Labels) -> Labels:
    """Where each label was seen first: equal for two lists that partition their axis alike."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]
