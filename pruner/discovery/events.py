"""What a forward pass does: operators, calls of modules, and the line of code where each stands."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

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
