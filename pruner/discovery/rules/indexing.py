"""Picking and placing by index: exact where the indices are constants, tied where they index a known axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pruner.discovery.labels import Axes, Facet, Labels, State, facets_of, spread
from pruner.discovery.operation import Operation
from pruner.discovery.rules.pointwise import elementwise

Indices = Sequence[Tensor | None]


def index(operation: Operation) -> list[State]:
    """`x[i, :, j]`, with indices of numbers or of booleans."""
    return [indexed(operation, operation.args[0], operation.args[1])]


def index_select(operation: Operation) -> list[State]:
    """`x.index_select(dim, i)`: as `x[:, i]`."""
    source, dim, chosen = operation.args[:3]
    return [indexed(operation, source, [*([None] * (dim % source.dim())), chosen])]


def indexed(operation: Operation, source: Tensor, indices: Indices) -> State:
    """The state of a source indexed by a tensor, or nothing, per axis."""
    state = operation.state(source)
    dims = [dim for dim, chosen in enumerate(indices) if chosen is not None]
    masks = [dim for dim in dims if indices[dim].dtype == torch.bool]  # type: ignore[union-attr]
    if masks:
        return masked(operation, state, masks[0], indices)
    found: list[Facet] = []
    for facet in state.facets:
        if facet[0] in dims:
            found += pick(operation, source, facet, indices, dims)
        else:
            places = [None if i is None else torch.zeros(i.shape, dtype=torch.long) for i in indices]
            found += run_index(operation, source, facet, places, dims)
    return State(tuple(found), "data", state.parameter)


def masked(operation: Operation, state: State, dim: int, indices: Indices) -> State:
    """A boolean index takes the axes it spans together into one, without labels."""
    mask = indices[dim]
    assert mask is not None
    span, output = mask.dim(), operation.outputs[0]
    moved = [
        (d - span + 1 if d >= dim + span else d, v) for d, v in state.facets if not dim <= d < dim + span
    ]
    operation.freeze((v for d, v in state.facets if dim <= d < dim + span), "a mask chooses among them")
    return State(tuple((d, v) for d, v in moved if d < output.dim() and output.size(d) == len(v)))


def pick(
    operation: Operation, source: Tensor, facet: Facet, indices: Indices, dims: Sequence[int]
) -> list[Facet]:
    """Facets that remain of an axis that is indexed."""
    dim, labels = facet
    chosen = indices[dim]
    assert chosen is not None
    space = operation.state(chosen).space
    if space is not None:
        operation.match([labels], space)
        operation.constraints.mark("chosen", labels)
        return []
    values = [None if i is None else operation.value(i) for i in indices]
    if any(value is None for value, i in zip(values, indices) if i is not None):
        operation.freeze([labels], "data chooses among them")
        return []
    if chosen.numel() > 1:
        what = f"{operation.event.name}: stored indices would need new numbers"
        operation.constraints.mark("constant", labels, what, chosen)
    return run_index(operation, source, facet, values, dims)


def run_index(
    operation: Operation, source: Tensor, facet: Facet, values: Indices, dims: Sequence[int]
) -> list[Facet]:
    """Index a tensor of labels that is thin where nothing is indexed."""
    shape = [size if dim in dims or dim == facet[0] else 1 for dim, size in enumerate(source.shape)]
    return operation.constraints.factorise(torch.ops.aten.index(spread(facet, shape), list(values)))


def index_put(operation: Operation) -> list[State]:
    """`x[i] = v`: the axes that are not indexed meet."""
    source, indices, values = operation.args[:3]
    state, given = operation.state(source), operation.state(values)
    if not given.facets or any(i is not None and i.dtype == torch.bool for i in indices):
        if source.shape == values.shape:
            return [elementwise(operation, [source, values], source.shape)]
        return [State(state.facets)]
    free = [dim for dim in range(source.dim()) if dim >= len(indices) or indices[dim] is None]
    axes = state.axes()
    for dim, labels in given.facets:
        from_right = dim - values.dim()
        if -from_right > len(free) or free[from_right] - source.dim() != from_right:
            operation.freeze([labels], "placed at indices")
        elif source.size(free[from_right]) == len(labels):
            axes[free[from_right]] = operation.match(axes.get(free[from_right], []), [labels])
    return [State(facets_of(axes))]


def gather(operation: Operation) -> list[State]:
    """`x.gather(dim, i)`: the other axes of x and i meet."""
    source, dim, chosen = operation.args[:3]
    dim %= source.dim()
    axes, theirs = operation.axes(source), operation.axes(chosen)
    found: list[Facet] = [(dim, labels) for labels in theirs.get(dim, [])]
    for labels in axes.pop(dim, []):
        found += gathered(operation, source, (dim, labels), chosen)
    for other in set(axes) | set(theirs) - {dim}:
        if chosen.size(other) == source.size(other):
            met = operation.match(axes.get(other, []), theirs.get(other, []))
            found += [(other, labels) for labels in met]
    return [State(tuple(found))]


def gathered(operation: Operation, source: Tensor, facet: Facet, chosen: Tensor) -> list[Facet]:
    """Facets that remain of the axis along which elements are gathered."""
    space, value = operation.state(chosen).space, operation.value(chosen)
    if space is not None:
        operation.match([facet[1]], space)
        operation.constraints.mark("chosen", facet[1])
        return []
    if value is None:
        operation.freeze([facet[1]], "data chooses among them")
        return []
    return operation.constraints.factorise(torch.gather(spread(facet, source.shape), facet[0], value))


def scatter(operation: Operation) -> list[State]:
    """`x.scatter(dim, i, v)` and `x.index_add(dim, i, v)`: the other axes of x, i and v meet."""
    source, dim, chosen = operation.args[:3]
    dim %= max(1, source.dim())
    given = operation.args[3] if len(operation.args) > 3 and isinstance(operation.args[3], Tensor) else None
    axes, placed = operation.axes(source), operation.axes(given)
    if operation.event.name.startswith("scatter"):
        placed = operation.met([placed, operation.axes(chosen)])
    space = operation.state(chosen).space
    if space is not None:
        axes[dim] = operation.match(axes.get(dim, []), space)
    found: Axes = {dim: axes[dim]} if dim in axes else {}
    for other in (set(axes) | set(placed)) - {dim}:
        fitting = [labels for labels in placed.get(other, []) if len(labels) == source.size(other)]
        found[other] = operation.match(axes.get(other, []), fitting)
    return [State(facets_of(found))]


def masked_scatter(operation: Operation) -> list[State]:
    """`x.masked_scatter(mask, v)`: shaped as x."""
    states = [operation.state(tensor) for tensor in operation.event.tensors]
    return [State(states[0].facets or states[-1].facets)]


def embedding(operation: Operation) -> list[State]:
    """Rows of a table by number: tokens choose the rows, so these stay unless they index a known axis."""
    weight, numbers = operation.args[:2]
    rows: list[Labels] = operation.state(weight).on(0)
    space = operation.state(numbers).space
    for labels in rows:
        if space is not None:
            operation.match([labels], space)
        else:
            operation.constraints.mark("constant", labels, "embedding: tokens or positions number them")
    last = operation.outputs[0].dim() - 1
    columns = [(last, labels) for labels in operation.state(weight).on(1)]
    return [State((*columns, *operation.state(numbers).facets))]


RULES = {
    **dict.fromkeys(("index", "_unsafe_index"), index),
    **dict.fromkeys(("index_put", "_index_put_impl"), index_put),
    "index_select": index_select,
    "gather": gather,
    **dict.fromkeys(
        ("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill"), scatter
    ),
    "masked_scatter": masked_scatter,
    "embedding": embedding,
}
