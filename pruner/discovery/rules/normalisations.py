"""Fused normalisations: elementwise, and the axes they average over are noted."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pruner.discovery.labels import UNLABELLED, Labels, State
from pruner.discovery.operation import Operation
from pruner.discovery.rules.pointwise import elementwise


def layer_norm(operation: Operation) -> list[State]:
    """Layer and RMS norms over the trailing axes that the weight has."""
    source, shape = operation.args[0], operation.args[1]
    first = source.dim() - len(shape)
    for dim, labels in operation.state(source).facets:
        if dim >= first:
            operation.constraints.mark("averaged", labels, operation.event.name)
    return normalised(operation)


def normalised(operation: Operation) -> list[State]:
    """The source meets its weight and bias."""
    source = operation.args[0]
    others = [leaf for leaf in tree_leaves(operation.args[1:]) if isinstance(leaf, Tensor) and leaf.dim()]
    state = elementwise(operation, [source, *others], operation.outputs[0].shape)
    return [state, *(UNLABELLED for _ in operation.outputs[1:])]


def group_norm(operation: Operation) -> list[State]:
    """(batch, channels, ...) normalised over each of `groups` blocks of channels."""
    source, *affine = operation.args[:3]
    channels, groups = operation.args[4], operation.args[6]
    met = operation.state(source).on(1)
    for parameter in affine:
        if parameter is not None:
            met = operation.match(met, operation.state(parameter).on(0))
    width = channels // groups
    out: list[Labels] = []
    for labels in met:
        found = operation.constraints.factorise_along(labels, groups, width)
        for each in found[1]:
            operation.constraints.mark("averaged", each, operation.event.name)
        out += [np.repeat(each, width) for each in found[0]] + [np.tile(each, groups) for each in found[1]]
    beside = tuple(facet for facet in operation.state(source).facets if facet[0] != 1)
    state = State((*((1, labels) for labels in out), *beside))
    return [state, *(UNLABELLED for _ in operation.outputs[1:])]


RULES = {
    **dict.fromkeys(("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm"), layer_norm),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training"), normalised),
    "native_group_norm": group_norm,
}
