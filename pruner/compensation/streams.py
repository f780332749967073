"""Hidden states that walk through the decoder layer by layer, and what a layer does with them on the way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruner.compensation.room import room

WALKING_TOKENS = 2048
"""Of a pass through one layer, without gradients."""


class Reached(Exception):  # noqa: N818
    """A forward pass came to the module where it was to end."""


@dataclass(frozen=True, slots=True)
class Call:
    """How the model calls one of its decoder layers, but for the hidden states.

    Attributes:
        arguments: batch size -> what comes with the hidden states of so many samples: masks, rotary
            embeddings, positions.
    """

    arguments: Mapping[int, tuple[tuple[Any, ...], Mapping[str, Any]]]

    def __call__(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The layer's output for (batch, seq_len, width), of the same shape."""
        args, kwargs = self.arguments[len(hidden)]
        output = layer(hidden, *args, **kwargs)
        return output if isinstance(output, Tensor) else output[0]


def layer_calls(
    model: PreTrainedModel, layers: Sequence[str], input_ids: Tensor, batch_size: int
) -> list[Call]:
    """How the model calls each of `layers` for batches of samples of this length, a last short one too."""
    sizes = {len(batch): batch for batch in input_ids.split(batch_size)}
    noted = {size: _arguments(model, layers, batch) for size, batch in sizes.items()}
    return [Call({size: noted[size][number] for size in sizes}) for number in range(len(layers))]


def _arguments(
    model: PreTrainedModel, layers: Sequence[str], batch: Tensor
) -> list[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    noted: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = []

    def note(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        noted.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))
        if len(noted) == len(layers):
            raise Reached

    handles = [
        model.get_submodule(layer).register_forward_pre_hook(note, with_kwargs=True) for layer in layers
    ]
    _run(model, batch, handles)
    return noted


def enter(
    model: PreTrainedModel, first_layer: str, input_ids: Tensor, batch_size: int, folder: str | None
) -> Tensor:
    """The stream before the first decoder layer: (samples, seq_len) -> (samples, seq_len, width).

    Args:
        model: whose embeddings are looked up, batch by batch.
        first_layer: its name.
        input_ids: of all samples.
        batch_size: samples at once.
        folder: where the stream lies as a file; None for the model's memory.
    """
    stream = None
    for number, rows in enumerate(input_ids.split(batch_size)):
        hidden = embed(model, first_layer, rows)
        if stream is None:
            stream = room((len(input_ids), *hidden.shape[1:]), hidden.dtype, hidden.device, folder)
        stream[number * batch_size :][: len(rows)].copy_(hidden)
    assert stream is not None
    return stream


def embed(model: PreTrainedModel, first_layer: str, input_ids: Tensor) -> Tensor:
    """What enters the first decoder layer: (samples, seq_len) -> (samples, seq_len, width)."""
    entered: list[Tensor] = []

    def take(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])
        raise Reached

    hook = model.get_submodule(first_layer).register_forward_pre_hook(take, with_kwargs=True)
    _run(model, input_ids, [hook])
    return entered[0]


def _run(model: PreTrainedModel, input_ids: Tensor, handles: Sequence[Any]) -> None:
    try:
        with suppress(Reached):
            model(input_ids=input_ids.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True)
class Passage:
    """What one batch showed of a layer.

    Attributes:
        inputs: module -> its input.
        outputs: module -> its output, (batch, seq_len, width); without the one at whose input the pass ended.
        hidden: the layer's output, None if the pass ended before it.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    hidden: Tensor | None


def watch(
    layer: nn.Module,
    call: Call,
    hidden: Tensor,
    modules: Sequence[str],
    until: str | None = None,
    through: str | None = None,
) -> Passage:
    """Run a layer and take note of what enters and leaves some of its linear modules.

    Args:
        layer: a decoder layer.
        call: how to call it.
        hidden: (batch, seq_len, width).
        modules: names inside the layer.
        until: end the pass when this one's input is there.
        through: end it when this one's output is.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    left = None
    with _noting(layer, modules, inputs, outputs, until, through), suppress(Reached):
        left = call(layer, hidden)
    return Passage(
        inputs, {name: output.view(*hidden.shape[:-1], -1) for name, output in outputs.items()}, left
    )


@contextmanager
def _noting(
    layer: nn.Module,
    modules: Sequence[str],
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    until: str | None,
    through: str | None,
) -> Iterator[None]:
    def before(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(_module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs[name] = args[0]
            if name == until:
                raise Reached

        return note

    def after(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def note(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
            outputs[name] = output
            if name == through:
                raise Reached

        return note

    handles: list[Any] = []
    for name in modules:
        module = layer.get_submodule(name)
        handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def advance(layer: nn.Module, call: Call, stream: Tensor, batch_size: int) -> Tensor:
    """Carry a stream through a layer, batch by batch, in its own memory."""
    device = next(layer.parameters()).device
    for rows in stream.split(batch_size):
        rows.copy_(call(layer, rows.to(device)))
    return stream


@torch.no_grad()
def is_residual(passage: Passage, hidden: Tensor, modules: Sequence[str]) -> bool:
    """Whether the layer adds its projections' outputs to its input, and nothing else.

    Each element of the sum may be off by what its type rounds: in bfloat16 that is more than a small update.
    """
    if passage.hidden is None:
        return False
    before, after = hidden.double(), passage.hidden.double()
    total = before + sum(passage.outputs[name].double() for name in modules)
    rounding = torch.finfo(hidden.dtype).eps * (before.abs() + after.abs())
    away = ((after - total).abs() - rounding).clamp(min=0).norm()
    return bool(away <= 0.01 * (after - before).norm())
