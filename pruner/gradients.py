"""Gradients that are used as soon as they are there, in passes that keep little."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Receive = Callable[[str, Tensor], None]

TOKENS_AT_ONCE = 512
"""Of a pass that keeps activations: at most 34 × width bytes for a token and layer (Korthikanti et al. 2022,
section 4.1), a third of the weights of a Llama of 7B."""


def at_once(input_ids: Tensor, batch_size: int | None, tokens: int = TOKENS_AT_ONCE) -> int:
    """Samples in one pass: as many as asked for, or as make up so many tokens."""
    return batch_size or max(1, tokens // input_ids.shape[1])


@contextmanager
def streamed_gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], receive: Receive
) -> Iterator[None]:
    """Give each gradient to `receive` as soon as a backward pass has completed it, then free it.

    Nothing else of the model asks for gradients meanwhile; afterwards everything is as before, gradients that
    there were too.
    """
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    there = {name: parameter.grad for name, parameter in parameters.items()}
    training = model.training
    hooks = []

    def hook(name: str) -> Callable[[Tensor], None]:
        def give(parameter: Tensor) -> None:
            assert parameter.grad is not None
            receive(name, parameter.grad)
            parameter.grad = None

        return give

    try:
        model.eval().requires_grad_(False)
        for name, parameter in parameters.items():
            parameter.grad = None
            parameter.requires_grad_(True)
            hooks.append(parameter.register_post_accumulate_grad_hook(hook(name)))
        with torch.enable_grad():
            yield
    finally:
        for handle in hooks:
            handle.remove()
        for name, parameter in parameters.items():
            parameter.grad = there[name]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asked[name])
        model.train(training)
