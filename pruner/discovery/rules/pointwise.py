"""Elementwise operators: tensors meet axis by axis, right-aligned; broadcast axes tie nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pruner.discovery.labels import Axes, Labels, Origin, State, facets_of
from pruner.discovery.operation import Operation


def pointwise(operation: Operation) -> list[State]:
    """Every tensor argument meets every other."""
    return operation.each(elementwise(operation, operation.event.tensors, operation.outputs[0].shape))


def elementwise(operation: Operation, tensors: Sequence[Tensor], shape: Sequence[int]) -> State:
    """The state of the result of meeting tensors in a tensor of `shape`."""
    rank = len(shape)
    shifted = [
        {dim + rank - tensor.dim(): labels for dim, labels in operation.axes(tensor).items()}
        for tensor in tensors
    ]
    met = operation.met(shifted)
    for dim, labels in met.items():
        mark_unlabelled(operation, tensors, shifted, dim - rank, rank, labels)
    states = [operation.state(tensor) for tensor in tensors]
    space = next((state.space for state in states if state.space is not None), None)
    return State(facets_of(met), origin_of(operation, tensors), space=space)


def mark_unlabelled(
    operation: Operation,
    tensors: Sequence[Tensor],
    shifted: Sequence[Axes],
    from_right: int,
    rank: int,
    labels: Sequence[Labels],
) -> None:
    """A tensor without labels that varies along a labelled axis would have to be cut, and cannot be."""
    for tensor, axes in zip(tensors, shifted):
        if from_right + rank in axes or -from_right > tensor.dim() or tensor.size(from_right) == 1:
            continue
        origin = operation.state(tensor).origin
        if origin != "uniform" and tensor.dtype != torch.bool:
            for each in labels:
                name, lost = operation.event.name, operation.states.lost.get(id(tensor))
                what = f"{lost}; what comes of it meets them in {name}" if lost else ""
                what = what or f"{name}: {origin} without labels varies along them"
                operation.constraints.mark("constant", each, what, tensor)


def origin_of(operation: Operation, tensors: Sequence[Tensor]) -> Origin:
    """Data if anything is; uniform if all are, single numbers included."""
    if any(operation.state(tensor).origin == "data" for tensor in tensors):
        return "data"
    uniform = all(operation.state(t).origin == "uniform" or t.numel() == 1 for t in tensors)
    return "uniform" if uniform else "constant"
