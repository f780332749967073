"""Sees every operator of a forward pass, as torch dispatches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pruner.discovery.events import Event, ModuleCall, Recording, depends_on_data, model_code_place
from pruner.discovery.values import SCALARS, Values


class Recorder(TorchDispatchMode):
    """Writes down every operator; computes what is constant beside it."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values
        self.recording = Recording()
        self.open: list[ModuleCall] = []

    def __torch_dispatch__(
        self,
        function: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator on the meta device and on the values of constants."""
        args, kwargs = tree_map_only(Tensor, self.on_meta, (args, kwargs or {}))
        name = function._schema.name.split("::")[1]
        result = self.values.compute(function, args, kwargs)
        if name in SCALARS:
            if result is None:
                raise ValueError(depends_on_data(name))
            return result
        output = self.run(name, function, args, kwargs, result)
        outputs = tuple(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        if outputs:
            self.write(name, function, args, kwargs, outputs)
            self.values.learn_result(name.rstrip("_"), args, result, outputs)
        return output

    def on_meta(self, tensor: Tensor) -> Tensor:
        """A constant that the model's code made on another device, moved."""
        if tensor.is_meta:
            return tensor
        moved = tensor.detach().to("meta")
        self.values.learn(moved, tensor.detach().cpu())
        return moved

    def run(self, name: str, function: OpOverload, args: Any, kwargs: Any, result: Any) -> Any:
        """The operator's result on the meta device."""
        if (
            name in ("nonzero", "masked_select", "_unique2", "unique_dim", "repeat_interleave")
            and result is not None
        ):
            return tree_map_only(Tensor, lambda value: value.to("meta"), result)
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):
            args = (args[0], self.spell_out_masks(args[1]), *args[2:])
        with torch.no_grad():
            try:
                return function(*args, **kwargs)
            except NotImplementedError as error:
                raise ValueError(f"{depends_on_data(name)} ({error})") from error

    def spell_out_masks(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Boolean indices as numbers, where their values are known: else the result has no shape."""
        spelled: list[Tensor | None] = []
        for index in indices:
            value = None if index is None or index.dtype != torch.bool else self.values.of(index)
            if value is None:
                spelled.append(index)
            else:
                spelled += [numbers.to("meta") for numbers in value.nonzero(as_tuple=True)]
        return spelled

    def write(
        self, name: str, function: OpOverload, args: Any, kwargs: Any, outputs: tuple[Tensor, ...]
    ) -> None:
        """Append an event."""
        leaves = tree_leaves((args, {key: value for key, value in kwargs.items() if key != "out"}))
        in_place = function._schema.is_mutable and bool(args) and outputs[0] is args[0]
        self.recording.events.append(
            Event(
                name.rstrip("_") if in_place else name,
                function,
                args,
                kwargs,
                tuple(leaf for leaf in leaves if isinstance(leaf, Tensor)),
                outputs,
                in_place,
                model_code_place(),
                self.open[-1].name if self.open else "",
            )
        )

    def enter(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is called."""
        self.open.append(ModuleCall(name, args, kwargs, len(self.recording.events)))
        self.recording.calls.append(self.open[-1])

    def leave(self, output: Any) -> None:
        """The innermost module returns."""
        call = self.open.pop()
        call.last, call.output = len(self.recording.events), output


class ListsAsTensors(TorchFunctionMode):
    """Makes tensors of the lists in `x[:, [-1]]` before torch does, which would lose their values."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, with the lists of an index replaced."""
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            source, index, *rest = args
            spelled = tuple(map(list_as_tensor, index)) if isinstance(index, tuple) else list_as_tensor(index)
            args = (source, spelled, *rest)
        return function(*args, **(kwargs or {}))


def list_as_tensor(index: Any) -> Any:
    """A list of numbers as a tensor on the CPU, anything else as it is."""
    return torch.tensor(index) if isinstance(index, list) else index
