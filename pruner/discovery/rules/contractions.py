"""Matrix products: contracted axes meet, batch axes meet, the others stay."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pruner.discovery.labels import Axes, Facet, Labels, State, facets_of
from pruner.discovery.operation import Operation
from pruner.discovery.rules.pointwise import mark_unlabelled


def contract(operation: Operation, one: Tensor, one_dim: int, other: Tensor, other_dim: int) -> None:
    """An axis of one tensor is summed against an axis of another."""
    ours, theirs = operation.state(one).on(one_dim), operation.state(other).on(other_dim)
    if ours and theirs:
        operation.match(ours, theirs)
    elif ours or theirs:
        bare = operation.state(other if ours else one)
        if one.size(one_dim) > 1 and bare.origin != "uniform":
            for labels in ours or theirs:
                what = f"{operation.event.name}: {bare.origin} without labels is contracted with them"
                operation.constraints.mark("constant", labels, what, other if ours else one)
    for tensor, facets in ((one, ours), (other, theirs)):
        if operation.state(tensor).parameter:
            for labels in facets:
                operation.constraints.mark("reads", labels)


def product(operation: Operation, one: Tensor, other: Tensor) -> State:
    """(..., m, k) times (..., k, n), either possibly a vector."""
    ours, theirs = operation.axes(one), operation.axes(other)
    contract(operation, one, one.dim() - 1, other, max(other.dim() - 2, 0))
    found: list[Facet] = []
    for dim in range(max(one.dim(), other.dim()) - 2):
        met = operation.match(ours.get(dim, []), theirs.get(dim, []))
        mark_batch(operation, met, one, other)
        found += [(dim, labels) for labels in met]
    if one.dim() > 1:
        found += [(one.dim() - 2, labels) for labels in ours.get(one.dim() - 2, [])]
    if other.dim() > 1:
        found += [(one.dim() - 1, labels) for labels in theirs.get(other.dim() - 1, [])]
    return State(tuple(found))


def mark_batch(operation: Operation, labels: list[Labels], *tensors: Tensor) -> None:
    """Activations are multiplied separately for each of these atoms, as the heads of attention are."""
    if not any(operation.state(tensor).parameter for tensor in tensors):
        for each in labels:
            operation.constraints.mark("batch", each)


def multiply(operation: Operation) -> list[State]:
    """`mm`, `bmm`, `mv`, `dot` and the triangular solve."""
    return [product(operation, operation.args[0], operation.args[1])]


def add_product(operation: Operation) -> list[State]:
    """`addmm` and its batched forms: a product, and a tensor that meets it."""
    bias, one, other = operation.args[:3]
    return [added(operation, product(operation, one, other), bias)]


def added(operation: Operation, state: State, bias: Tensor) -> State:
    """A product's state after a tensor was added to it."""
    output = operation.outputs[0]
    rank = output.dim()
    shifted: Axes = {dim + rank - bias.dim(): labels for dim, labels in operation.axes(bias).items()}
    met = operation.met([state.axes(), shifted])
    for dim, labels in met.items():
        mark_unlabelled(operation, [bias], [shifted], dim - rank, rank, labels)
    return State(facets_of(met))


def linear(operation: Operation) -> list[State]:
    """`linear`: (..., in) times (out, in), and a bias."""
    source, weight = operation.args[:2]
    last = source.dim() - 1
    contract(operation, source, last, weight, 1)
    kept = [facet for facet in operation.state(source).facets if facet[0] != last]
    state = State((*kept, *((last, labels) for labels in operation.state(weight).on(0))))
    bias = operation.argument(2, "bias")
    return [state if bias is None else added(operation, state, bias)]


def attention(operation: Operation) -> list[State]:
    """Fused attention of (batch, heads, length, dim); key-value heads may be fewer (`enable_gqa`)."""
    query, key, value = operation.args[:3]
    queries, keys, values = (operation.axes(tensor) for tensor in (query, key, value))

    def repeated(axes: Axes, tensor: Tensor) -> list[Labels]:
        return [np.repeat(labels, query.size(1) // tensor.size(1)) for labels in axes.get(1, [])]

    heads = operation.match(queries.get(1, []), repeated(keys, key))
    heads = operation.match(heads, repeated(values, value))
    mark_batch(operation, heads)
    operation.match(queries.get(3, []), keys.get(3, []))
    facets = [(1, labels) for labels in heads] + [(3, labels) for labels in values.get(3, [])]
    return [State(tuple(facets)), *(State() for _ in operation.outputs[1:])]


RULES = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "linalg_solve_triangular"), multiply),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm"), add_product),
    "linear": linear,
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_fused_attention_overrideable",
            "_scaled_dot_product_attention_math",
        ),
        attention,
    ),
}
