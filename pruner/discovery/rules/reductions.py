"""Reductions and orders along an axis: the reduced axis loses its labels, the others keep theirs."""

from __future__ import annotations

from typing import Any

import torch

from pruner.discovery.labels import UNLABELLED, Facet, State
from pruner.discovery.operation import Operation

AVERAGES = frozenset({"mean", "var", "std", "var_mean", "std_mean", "median"})
"""Zeros count in these, so what falls has to be made up for."""
DESTROYED_BY_ZEROS = frozenset({"prod", "all", "cumprod", "logcumsumexp", "cummax", "logsumexp"})
SPREADS = frozenset({"var", "std", "var_mean", "std_mean"})


def reduction(operation: Operation) -> list[State]:
    """Sum, mean, maximum and their like; those that pick an index know which axis it indexes."""
    name = operation.event.name
    source = operation.args[0]
    if name in ("max", "min") and len(operation.event.tensors) > 1:
        from pruner.discovery.rules.pointwise import pointwise

        return pointwise(operation)
    dims, keepdim = reduced_dims(operation)
    state = operation.state(source)
    gone = [labels for dim, labels in state.facets if dim in dims]
    if name in DESTROYED_BY_ZEROS:
        operation.freeze(gone, "not the same with zeros")
    elif name in AVERAGES:
        for labels in gone:
            operation.constraints.mark("averaged", labels, name)
    facets: list[Facet] = [
        (dim if keepdim else dim - sum(other < dim for other in dims), labels)
        for dim, labels in state.facets
        if dim not in dims
    ]
    if operation.outputs[0].dim() == 0:
        return operation.each(UNLABELLED)
    picks = name in ("argmax", "argmin", "max", "min") and bool(gone)
    return [
        State(tuple(facets), state.origin, space=tuple(gone) if picks and out.dtype == torch.long else None)
        for out in operation.outputs
    ]


def reduced_dims(operation: Operation) -> tuple[set[int], bool]:
    """The axes that a reduction takes away, and whether they stay with size one."""
    name, rank = operation.event.name, max(1, operation.args[0].dim())
    first = 2 if name in ("norm", "linalg_vector_norm") else 1
    dims: Any = operation.argument(first, "dim")
    if name in SPREADS:
        dims = None if isinstance(dims, bool) else dims
        keepdim = operation.argument(3, "keepdim", False)
    else:
        keepdim = operation.argument(first + 1, "keepdim", False)
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return set(range(rank)), bool(keepdim)
    return {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}, bool(keepdim)


def along(operation: Operation) -> list[State]:
    """Cumulative operators and softmax: every axis stays; what falls counts in a softmax."""
    source, name = operation.args[0], operation.event.name
    state = operation.state(source)
    labels = state.on(operation.argument(1, "dim", -1) % max(1, source.dim()))
    if name in DESTROYED_BY_ZEROS:
        operation.freeze(labels, "not the same with zeros")
    elif "softmax" in name:
        for each in labels:
            operation.constraints.mark("compared", each, name)
    return operation.each(State(state.facets, state.origin))


def ordering(operation: Operation) -> list[State]:
    """`topk` and sorting: the indices that come out index the ordered axis."""
    source, name = operation.args[0], operation.event.name
    state = operation.state(source)
    position = 2 if name in ("topk", "kthvalue") else 1
    dim = operation.argument(position, "dim", -1)
    dim = (-1 if isinstance(dim, bool) else dim) % max(1, source.dim())
    kept = tuple(facet for facet in state.facets if facet[0] != dim)
    space = tuple(state.on(dim)) or None
    for labels in space or ():
        operation.constraints.mark("compared", labels, name)
    return [State(kept, space=space if out.dtype == torch.long else None) for out in operation.outputs]


RULES = {
    **dict.fromkeys(
        [
            "sum",
            "mean",
            "amax",
            "amin",
            "var",
            "std",
            "prod",
            "all",
            "any",
            "logsumexp",
            "norm",
            "linalg_vector_norm",
            "var_mean",
            "std_mean",
            "argmax",
            "argmin",
            "max",
            "min",
            "count_nonzero",
            "median",
            "nansum",
        ],
        reduction,
    ),
    **dict.fromkeys(
        [
            "_softmax",
            "_log_softmax",
            "softmax",
            "log_softmax",
            "_safe_softmax",
            "cumsum",
            "cumprod",
            "logcumsumexp",
            "cummax",
        ],
        along,
    ),
    **dict.fromkeys(("topk", "sort", "argsort", "kthvalue"), ordering),
}
