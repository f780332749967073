"""Values of constants while the model runs without any: positions, masks, and a pretended routing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

SCALARS = frozenset({"_local_scalar_dense", "is_nonzero", "equal", "item"})
"""Operators that hand a tensor's value to Python."""

CHOICES = frozenset({"topk", "sort", "argsort", "argmax", "argmin", "max", "min", "kthvalue", "multinomial"})
"""Operators that turn data into indices."""


class Values:
    """Knows the values of those tensors that do not depend on weights or input.

    Positions and masks are computed for real, on the CPU. What a router chooses is pretended: the tokens
    go round the experts in turn, so code that visits only chosen experts visits as many as it can.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def learn(self, tensor: Tensor, value: Tensor) -> None:
        """Remember the value of a tensor; the tensor is kept alive, its identity is the key."""
        self._known[id(tensor)] = (tensor, value)

    def of(self, tensor: Tensor) -> Tensor | None:
        """A tensor's value, None if it is unknown."""
        if tensor.device.type != "meta":
            return tensor
        entry = self._known.get(id(tensor))
        return None if entry is None else entry[1]

    def compute(self, function: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The operator's result on values; None unless all its tensors' are known."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(self.of(tensor) is None for tensor in tensors):
            return None
        there = tree_map_only(Tensor, self.of, (tuple(args), dict(kwargs)))
        plain_args, plain_kwargs = tree_map(to_cpu, there)
        return function(*plain_args, **plain_kwargs)

    def learn_result(self, name: str, args: Sequence[Any], result: Any, outputs: Sequence[Tensor]) -> None:
        """Remember what an operator gave: its computed values, or pretended choices."""
        if result is not None:
            values = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            for output, value in zip(outputs, values):
                self.learn(output, value)
        elif name in CHOICES and isinstance(args[0], Tensor):
            for output in outputs:
                if not output.is_floating_point() and output.dtype != torch.bool:
                    self.learn(output, in_turn(name, output, args))
        else:
            for output in outputs:  # an in-place operator may have overwritten a constant
                self._known.pop(id(output), None)


def in_turn(name: str, output: Tensor, args: Sequence[Any]) -> Tensor:
    """Indices that go round the chosen axis."""
    source = args[0]
    dim = next((arg for arg in args[1:] if isinstance(arg, int) and not isinstance(arg, bool)), -1)
    if name in ("topk", "kthvalue", "multinomial"):
        dim = args[2] if name != "multinomial" and len(args) > 2 else -1
    size = source.size(dim) if source.dim() else 1
    if name in ("sort", "argsort"):
        steps = torch.arange(size).view([-1 if d == dim % source.dim() else 1 for d in range(source.dim())])
        return steps.expand(output.shape).contiguous()
    return (torch.arange(output.numel()) % max(size, 1)).view(output.shape)


def to_cpu(leaf: Any) -> Any:
    """A device argument turned to the CPU."""
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf
