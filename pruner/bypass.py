"""Runs a model as if some decoder layers were not there; weights, names and numbers stay."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Bypass:
    """Stands in for a layer's `forward`.

    Attributes:
        others: how many values beside the hidden states the layer returns; None for a bare tensor.
    """

    others: int | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The hidden states as they came, in the form in which the layer returns its own."""
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden if self.others is None else (hidden, *[None] * self.others)


@torch.no_grad()
def bypasses(model: nn.Module, layers: Collection[str], input_ids: Tensor) -> dict[str, Bypass]:
    """What each of the named decoder layers can be replaced with, by what it returns for `input_ids`."""
    found: dict[str, Bypass] = {}

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            found[name] = Bypass(None if isinstance(output, Tensor) else len(output) - 1)

        return note

    hooks = [model.get_submodule(name).register_forward_hook(noting(name)) for name in layers]
    try:
        model(input_ids=input_ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def bypassed(model: nn.Module, stand_ins: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Meanwhile the residual stream passes the named layers by, or whatever stands in for their `forward`."""
    shadowed = {}
    for name, stand_in in stand_ins.items():
        own = vars(model.get_submodule(name))
        shadowed[name] = own.get("forward")
        own["forward"] = stand_in
    try:
        yield
    finally:
        for name, before in shadowed.items():
            own = vars(model.get_submodule(name))
            own["forward"] = before
            if before is None:
                del own["forward"]
