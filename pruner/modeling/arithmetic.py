"""Whether two models of equal shapes compute the same, without computing: by the operators that run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Operation = tuple[str, tuple[Any, ...], tuple[tuple[int, ...], ...]]
"""An operator's name, its plain arguments, the shapes of its results."""


class Recording(TorchDispatchMode):
    """Writes down every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and remember it."""
        result = func(*args, **(kwargs or {}))
        plain = tuple(
            leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, (bool, int, float, str))
        )
        shapes = tuple(tuple(leaf.shape) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        self.operations.append((str(func), plain, shapes))
        return result


def same_arithmetic(model: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Whether both run the same operators with the same numbers, in the same order, on the meta device.

    Together with equal names and shapes of their weights it means that they compute the same function.
    False too where one of them cannot run without data.
    """
    try:
        return all(a == b for a, b in zip(operations(model), operations(other), strict=True))
    except Exception:  # a model that needs data to run cannot be compared so
        return False


def operations(model: PreTrainedModel) -> Iterator[Operation]:
    """What runs in a forward pass over a few tokens, by the model's own kind of attention and the plainest.

    Some numbers on modules are read by one kind alone: how often to repeat the key-value heads, for one.
    """
    input_ids = torch.zeros(1, 7, dtype=torch.long, device="meta")
    if getattr(model.config, "_experts_implementation", None) is not None:
        model.set_experts_implementation("batched_mm")  # the one whose shapes do not depend on data
    chosen = model.config._attn_implementation
    for implementation in dict.fromkeys((chosen, "eager")):
        with suppress(ValueError):
            model.set_attn_implementation(implementation)
        with Recording() as recording, torch.no_grad():
            model.eval()(input_ids, use_cache=True)
        yield from recording.operations
    with suppress(ValueError):
        model.set_attn_implementation(chosen)
