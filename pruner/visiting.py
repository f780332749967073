"""Decoder layers that come to the device only while they run, and keep none of their activations there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from pruner.bypass import bypassed


@contextmanager
def layer_by_layer(model: nn.Module, layers: Sequence[str], device: torch.device) -> Iterator[None]:
    """Meanwhile `layers` stay where they are and visit `device` one at a time; all else is there.

    For models that are larger than the device. A backward pass runs each layer once more instead of keeping
    its activations (gradient checkpointing, Chen et al. 2016): of every layer only its input is kept.

    Args:
        model: its layers, in main memory.
        layers: names of the decoder layers.
        device: where they run.
    """
    visits = {name: Visit(model.get_submodule(name), device) for name in layers}
    resting = {id(tensor) for visit in visits.values() for tensor in tensors_of(visit.layer)}
    for tensor in tensors_of(model):
        if id(tensor) not in resting:
            tensor.data = tensor.data.to(device)
    with bypassed(model, visits):
        yield


def is_layer_by_layer(model: nn.Module) -> bool:
    """Whether some layers of the model are visitors."""
    return any(isinstance(vars(module).get("forward"), Visit) for module in model.modules())


@contextmanager
def present(layer: nn.Module) -> Iterator[None]:
    """Meanwhile the layer is on the device; what is changed of it goes home with it."""
    visit = vars(layer).get("forward")
    if not isinstance(visit, Visit):
        yield
        return
    with visit.paid(changing=True):
        yield


class Visit:
    """Stands in for a layer's `forward`: brings its tensors to the device and home again."""

    def __init__(self, layer: nn.Module, device: torch.device) -> None:
        self.layer = layer
        self.device = device
        self.home = next(tensors_of(layer)).device
        self.guests: list[tuple[Tensor, Tensor]] | None = None
        self.changing = False
        self.others: int | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, in the form in which it returns it, but for what is not hidden states."""
        hidden, *rest = args or (kwargs.pop("hidden_states"),)
        hidden = hidden.to(self.device)
        if not torch.is_grad_enabled():
            with self.paid():
                return self.forward(hidden, *rest, **kwargs)
        beginning = torch.empty(0, requires_grad=True)  # of the graph, where the inputs are not in one
        output = Recomputed.apply(hidden, beginning, self, lambda given: self.forward(given, *rest, **kwargs))
        return output if self.others is None else (output, *[None] * self.others)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own; it has to be there."""
        output = type(self.layer).forward(self.layer, *args, **kwargs)
        self.others = None if isinstance(output, Tensor) else len(output) - 1
        return output

    @contextmanager
    def paid(self, *, changing: bool = False) -> Iterator[None]:
        """Meanwhile the layer is on the device; within a visit, nothing more."""
        self.changing |= changing
        if self.guests is not None:
            yield
            return
        self.guests = [(tensor, tensor.data) for tensor in tensors_of(self.layer) if not tensor.is_meta]
        for tensor, data in self.guests:
            tensor.data = data.to(self.device)
        try:
            yield
        finally:
            if self.changing:
                self.guests = [(tensor, tensor.data.to(self.home)) for tensor in tensors_of(self.layer)]
            for tensor, data in self.guests:
                tensor.data = data
            self.guests, self.changing = None, False


class Recomputed(torch.autograd.Function):
    """A layer of which a backward pass has the input alone."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, _beginning: Tensor, visit: Visit, run: Callable[[Tensor], Any]
    ) -> Tensor:
        """(samples, seq_len, width) -> the same shape."""
        ctx.save_for_backward(hidden)
        ctx.visit, ctx.run = visit, run
        with visit.paid():
            return first_of(run(hidden))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The input's gradient; those of weights go where any pass leaves them, while the layer is there."""
        (hidden,) = ctx.saved_tensors
        trained = any(parameter.requires_grad for parameter in ctx.visit.layer.parameters())
        with torch.enable_grad(), ctx.visit.paid(changing=trained):
            again = hidden.detach().requires_grad_(ctx.needs_input_grad[0])
            output = first_of(ctx.run(again))
            if output.requires_grad:
                torch.autograd.backward(output, grads[0])
        return again.grad, None, None, None


def first_of(output: Any) -> Tensor:
    """The hidden states of what a layer returns."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Its parameters and buffers."""
    return chain(module.parameters(), module.buffers())
