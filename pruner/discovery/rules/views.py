"""Operators that only move elements: run them on the labels, and factorise again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pruner.discovery.labels import Facet, State, spread
from pruner.discovery.operation import Operation

MOVES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "permute",
        "transpose",
        "t",
        "unsqueeze",
        "squeeze",
        "expand",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "repeat",
        "unfold",
        "flip",
        "roll",
        "movedim",
        "narrow",
        "diagonal",
        "constant_pad_nd",
        "as_strided",
        "_reshape_alias",
        "flatten",
        "squeeze_copy",
        "numpy_T",
        "unflatten",
        "tile",
        "expand_as",
        "view_as",
        "diag_embed",
        "reshape_as",
        "unsafe_split",
        "unsafe_chunk",
        "unsafe_split_with_sizes",
    ]
)
SAME = frozenset(["_to_copy", "clone", "alias", "detach", "contiguous", "lift_fresh", "lift_fresh_copy"])
TRIANGLES = frozenset({"tril", "triu"})
NO_LABELS_WANTED = frozenset({"dtype", "device", "layout", "pin_memory", "memory_format", "non_blocking"})


def moved(operation: Operation) -> list[State]:
    """The labels go where the elements go."""
    source = operation.args[0]
    state = operation.state(source)
    facets: list[list[Facet]] = [[] for _ in operation.outputs]
    for facet in state.facets:
        labels = run_on_labels(operation, source, spread(facet, source.shape))
        for found, each in zip(facets, labels):
            found += operation.constraints.factorise(each)
    return [State(tuple(each), state.origin, state.parameter, state.space) for each in facets]


def run_on_labels(operation: Operation, source: Tensor, labels: Tensor) -> list[Tensor]:
    """The operator's results on a tensor of labels."""
    name, output = operation.event.name, operation.outputs[0]
    if name in ("view", "_unsafe_view", "_reshape_alias"):
        return [labels.reshape(output.shape)]
    if name == "as_strided":
        return [strided(labels, source, output)]
    kwargs = {key: value for key, value in operation.event.kwargs.items() if key not in NO_LABELS_WANTED}
    if name == "constant_pad_nd":
        return [operation.event.function(labels, operation.args[1], 0)]
    result: Any = operation.event.function(labels, *operation.args[1:], **kwargs)
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def strided(labels: Tensor, source: Tensor, output: Tensor) -> Tensor:
    """`as_strided`, through a memory that holds the labels as it holds the elements."""
    ends = [
        t.storage_offset() + sum((n - 1) * step for n, step in zip(t.shape, t.stride()))
        for t in (source, output)
    ]
    memory = torch.zeros(1 + max(ends), dtype=torch.long)
    memory.as_strided(source.shape, source.stride(), source.storage_offset()).copy_(labels)
    return memory.as_strided(output.shape, output.stride(), output.storage_offset())


def unchanged(operation: Operation) -> list[State]:
    """The same elements in the same places."""
    return operation.each(operation.state(operation.args[0]))


def triangle(operation: Operation) -> list[State]:
    """Part of the elements in the same places, zeros elsewhere."""
    state = operation.state(operation.args[0])
    return operation.each(State(state.facets, state.origin, space=state.space))


def as_complex(operation: Operation) -> list[State]:
    """Pairs become numbers: the halves of a pair must not be told apart."""
    source = operation.args[0]
    state, last = operation.state(source), source.dim() - 1
    operation.freeze(state.on(last), "halves of complex numbers")
    return operation.each(State(tuple(f for f in state.facets if f[0] != last), state.origin))


RULES = {
    **dict.fromkeys(MOVES, moved),
    **dict.fromkeys(SAME, unchanged),
    **dict.fromkeys(TRIANGLES, triangle),
    "view_as_complex": as_complex,
    "view_as_real": unchanged,
}
