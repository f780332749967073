"""One forward pass on the meta device, written down operator by operator."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pruner.discovery.values import SCALARS, Values

NOT_MODEL_CODE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One ATen operator as it ran.

    Attributes:
        name: without namespace and overload, e.g. "addmm"; in-place operators without the underscore.
        function: the operator itself.
        args, kwargs: as called, every tensor on the meta device.
        tensors: the tensors among these.
        outputs: the tensors that came out.
        in_place: the first argument was overwritten and is the output.
        place: the line of the model's code, e.g. "modeling_llama.py:243".
        module: name of the innermost module that ran.
    """

    name: str
    function: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    in_place: bool
    place: str
    module: str


@dataclass(slots=True, eq=False)
class ModuleCall:
    """One call of a module: its arguments, its output and the events within, `first` up to `last`."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    first: int
    last: int = -1
    output: Any = None


@dataclass(slots=True, eq=False)
class Recording:
    """What ran: operators in order, and the calls of modules around them."""

    events: list[Event] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)


class Interrupted(Exception):  # noqa: N818
    """A forward pass that failed; `recording` is what ran before, `error` what happened."""

    def __init__(self, recording: Recording, error: Exception) -> None:
        super().__init__(str(error))
        self.recording = recording
        self.error = error


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


def record(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    values: Values,
    prefix: str = "",
) -> Recording:
    """Call a module that lies on the meta device and write down what runs.

    Args:
        module: the twin, or a part of it.
        args, kwargs: its arguments; tensors on other devices are moved and their values become known.
        values: what is known of constants already.
        prefix: the module's own name, which the recorded names begin with.

    Raises:
        ValueError: the model's code asks for a value that only real weights and inputs have.
    """
    recorder = Recorder(values)
    args, kwargs = tree_map_only(Tensor, recorder.on_meta, (tuple(args), dict(kwargs)))
    recorder.recording.inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    with listening(module, recorder, prefix), torch.no_grad(), ListsAsTensors(), recorder:
        try:
            module(*args, **kwargs)
        except Exception as error:
            raise Interrupted(recorder.recording, error) from error
    return recorder.recording


@contextmanager
def listening(module: nn.Module, recorder: Recorder, prefix: str) -> Iterator[None]:
    """Tell the recorder of every call of a module within `module`."""
    handles = []
    for name, child in module.named_modules(prefix=prefix):

        def enter(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            recorder.enter(name, args, kwargs)

        def leave(_: nn.Module, args: Any, output: Any) -> None:
            recorder.leave(output)

        handles.append(child.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(child.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def model_code_place() -> str:
    """File and line of the innermost frame that is neither torch's nor discovery's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(NOT_MODEL_CODE):
        frame = frame.f_back
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def depends_on_data(name: str) -> str:
    """Why tracing stops at an operator that needs real values."""
    return (
        f"{model_code_place()} asks for the value of a tensor that depends on the input or the weights "
        f"({name}): what this model computes cannot be told from one trace, so nothing of it is pruned"
    )
