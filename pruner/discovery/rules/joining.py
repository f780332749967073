"""Concatenation and stacking: axes meet beside the joined one, which strings the labels together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from pruner.discovery.labels import Facet, Labels, Origin, State, facets_of, spread
from pruner.discovery.operation import Operation


def cat(operation: Operation) -> list[State]:
    """`torch.cat`."""
    tensors: Sequence[Tensor] = operation.args[0]
    states = [operation.state(tensor) for tensor in tensors]
    rank = operation.outputs[0].dim()
    parts = [
        (t.shape, s) for t, s in zip(tensors, states) if not (t.dim() == 1 and not t.numel() and rank > 1)
    ]
    return [joined(operation, parts, operation.argument(1, "dim", 0) % rank)]


def stack(operation: Operation) -> list[State]:
    """`torch.stack`: as `cat` with a new axis of size one in each."""
    dim = operation.argument(1, "dim", 0) % operation.outputs[0].dim()
    parts = []
    for tensor in operation.args[0]:
        state = operation.state(tensor)
        facets = tuple((axis + (axis >= dim), labels) for axis, labels in state.facets)
        parts.append(((*tensor.shape[:dim], 1, *tensor.shape[dim:]), State(facets, state.origin)))
    return [joined(operation, parts, dim)]


def joined(operation: Operation, parts: Sequence[tuple[Sequence[int], State]], dim: int) -> State:
    """The state of parts joined along `dim`."""
    beside = operation.met(
        {axis: labels for axis, labels in state.axes().items() if axis != dim} for _, state in parts
    )
    along: list[Facet] = []
    most = max((len(state.on(dim)) for _, state in parts), default=0)
    for number in range(most):
        labels = np.concatenate([nth(state, dim, number, shape[dim]) for shape, state in parts])
        along += operation.constraints.factorise(spread((dim, labels), operation.outputs[0].shape))
    origins = {state.origin for _, state in parts}
    origin: Origin = "data" if "data" in origins else "uniform" if origins == {"uniform"} else "constant"
    return State((*facets_of(beside), *along), origin)


def nth(state: State, dim: int, number: int, size: int) -> Labels:
    """A part's facet of this number along the joined axis; no atoms where it has fewer."""
    labels = state.on(dim)
    return labels[number] if number < len(labels) else np.zeros(size, np.int64)


RULES = {"cat": cat, "concat": cat, "stack": stack}
