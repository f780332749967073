"""Convolutions: plain ones contract their channels, depthwise ones keep them, grouped ones do both."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pruner.discovery.labels import Labels, State
from pruner.discovery.operation import Operation
from pruner.discovery.rules.contractions import contract


def convolution(operation: Operation) -> list[State]:
    """(batch, channels, ...) with a weight of (out, in / groups, ...)."""
    source, weight, bias = operation.args[:3]
    transposed, groups = operation.args[6], operation.args[8]
    channels, weights = operation.state(source).on(1), operation.axes(weight)
    if transposed:
        operation.freeze([*channels, *weights.get(0, []), *weights.get(1, [])], "transposed")
        out: list[Labels] = []
    elif groups == 1:
        contract(operation, source, 1, weight, 1)
        out = weights.get(0, [])
    elif weight.size(0) == source.size(1) == groups:
        out = operation.match(channels, weights.get(0, []))
    else:
        out = grouped(operation, channels, weight, groups)
    if bias is not None:
        out = operation.match(out, operation.state(bias).on(0))
    batch = [(0, labels) for labels in operation.state(source).on(0)]
    return [State((*batch, *((1, labels) for labels in out)))]


def grouped(operation: Operation, channels: list[Labels], weight: Tensor, groups: int) -> list[Labels]:
    """Channels read as (groups, in / groups), output channels as (groups, out / groups)."""
    weights = operation.axes(weight)
    read = [operation.constraints.factorise_along(each, groups, len(each) // groups) for each in channels]
    written = [
        operation.constraints.factorise_along(each, groups, len(each) // groups)
        for each in weights.get(0, [])
    ]
    met = operation.match([v for f in read for v in f[0]], [v for f in written for v in f[0]])
    operation.match([v for f in read for v in f[1]], weights.get(1, []))
    if operation.state(weight).parameter:
        for labels in weights.get(1, []):
            operation.constraints.mark("reads", labels)
    per_group = weight.size(0) // groups
    return [np.repeat(v, per_group) for v in met] + [np.tile(v, groups) for f in written for v in f[1]]


RULES = dict.fromkeys(("convolution", "_convolution"), convolution)
