"""One rule for every family of ATen operators, in a table keyed by the operator's name.

A rule takes an `Operation` and returns one `State` for every output; on its way it tells the constraints
which atoms meet. An operator without a rule that torch says is elementwise is followed as such; any other
freezes what it touches, whatever its shapes suggest.
"""

from collections.abc import Callable

import torch

from pruner.discovery.labels import CONSTANT, UNIFORM, UNLABELLED, Origin, State
from pruner.discovery.operation import Operation
from pruner.discovery.rules import (
    contractions,
    convolutions,
    indexing,
    joining,
    normalisations,
    reductions,
    views,
)
from pruner.discovery.rules.pointwise import elementwise, pointwise

Rule = Callable[[Operation], list[State]]

FILLS = frozenset(
    [
        "zeros",
        "ones",
        "full",
        "empty",
        "scalar_tensor",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "fill",
        "zero",
        "empty_strided",
        "new_empty_strided",
        "empty_permuted",
    ]
)
FACTORIES = frozenset(
    [
        "arange",
        "linspace",
        "eye",
        "tril_indices",
        "triu_indices",
        "randn",
        "rand",
        "randint",
        "randperm",
        "_efficientzerotensor",
        "bernoulli",
        "randn_like",
        "rand_like",
        "logspace",
    ]
)
VALUES_ONLY = frozenset(
    [
        "nonzero",
        "unique",
        "_unique2",
        "bincount",
        "histc",
        "searchsorted",
        "bucketize",
        "masked_select",
        "multinomial",
    ]
)

ELEMENTWISE = frozenset(["masked_fill", "polar", "floor_divide", "log_sigmoid_forward"])
"""Elementwise operators that torch does not tag as such."""

RULES: dict[str, Rule] = {
    **views.RULES,
    **joining.RULES,
    **contractions.RULES,
    **convolutions.RULES,
    **reductions.RULES,
    **normalisations.RULES,
    **indexing.RULES,
}


def rule_for(operation: Operation) -> Rule:
    """The rule that applies to one operator as it ran."""
    name = operation.event.name
    if name in FILLS:
        return lambda op: op.each(UNIFORM)
    if name in FACTORIES or not operation.event.tensors:
        return lambda op: op.each(CONSTANT)
    if name == "copy":
        return copied
    states = [operation.state(tensor) for tensor in operation.event.tensors]
    if not any(state.facets or state.space for state in states):
        origin = origin_of(states, name)
        return lambda op: op.each(State(origin=origin))
    if name in VALUES_ONLY:
        return lambda op: op.each(UNLABELLED)
    return RULES.get(name) or (pointwise if is_elementwise(operation) else unknown)


def origin_of(states: list[State], name: str) -> Origin:
    """Where unlabelled values come from."""
    if any(state.origin == "data" for state in states):
        return "data"
    return (
        "uniform" if all(state.origin == "uniform" for state in states) and name != "cumsum" else "constant"
    )


def copied(operation: Operation) -> list[State]:
    """`x.copy_(y)`: what y has, broadcast to x."""
    source = operation.args[1]
    state = elementwise(operation, [source], operation.outputs[0].shape)
    return [State(state.facets, operation.state(source).origin)]


def is_elementwise(operation: Operation) -> bool:
    """Whether the operator is elementwise, and its output has the shape to which the inputs broadcast."""
    event = operation.event
    if torch.Tag.pointwise not in event.function.tags and event.name not in ELEMENTWISE:
        return False
    try:
        shape = torch.broadcast_shapes(*[tensor.shape for tensor in operation.event.tensors])
    except RuntimeError:
        return False
    return bool(shape == operation.outputs[0].shape)


def unknown(operation: Operation) -> list[State]:
    """No rule: what the operator touches stays as it is."""
    for tensor in operation.event.tensors:
        operation.freeze(
            (labels for _, labels in operation.state(tensor).facets), "an operator without a rule"
        )
    return operation.each(UNLABELLED)
