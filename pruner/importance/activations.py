"""Scores from the activations that projections read, and from their gradients; all weights stay frozen."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruner.groups import Group
from pruner.importance.backward import backward, batches_of, check_finite
from pruner.progress import Track, silent
from pruner.projections import Projection, projection_of
from pruner.ranks import ALONE, Ranks


def gate_taylor(activation: Tensor, grad: Tensor) -> Tensor:
    """Change in loss if a gate on an input closes: a ∂L/∂a = Σ_i W_ik ∂L/∂W_ik.

    activation, grad: (samples, seq_len, in) -> (samples, in) fp32.
    """
    return (activation.float() * grad.float()).sum(1)


def project(model: nn.Module, groups: Sequence[Group]) -> dict[str, Projection]:
    """Group name -> the projection that reads it.

    Raises:
        ValueError: a group has none of its own.
    """
    found = {group.name: projection_of(model, group) for group in groups}
    missing = [name for name, projection in found.items() if projection is None]
    if missing:
        raise ValueError(
            f"group {missing[0]!r} is not read by one linear layer of its own ({len(missing)} such groups), "
            "so activations cannot score it; choose a criterion on weights, such as taylor_first"
        )
    return {name: projection for name, projection in found.items() if projection is not None}


def with_gradient(activation: Tensor, receive: Callable[[Tensor], None]) -> None:
    """Have `receive` called with an activation's gradient; the graph begins at the first of them."""
    if not activation.requires_grad:
        activation.requires_grad_(True)
    activation.register_hook(receive)


def gate_importance(
    model: PreTrainedModel,
    groups: Sequence[Group],
    input_ids: Tensor,
    squared: bool,
    batch_size: int | None = None,
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Group name -> (num_units,) fp32: |mean gate gradient| (Taylor), or mean square of it (Fisher).

    A gate multiplies all the activations of a unit; samples count by their mean loss per token, in nats.

    Args:
        model: is left as it was.
        groups: each read by one linear layer.
        input_ids: (num_samples, seq_len) int64.
        squared: Fisher, half of which is the second-order change in loss, instead of Taylor.
        batch_size: samples in one backward pass, None for 512 tokens; no influence on the result.
        track: sees the passes go by.
        ranks: the processes that share the samples.

    Raises:
        ValueError: a loss or a gradient is not finite, and of which sample; or a projection reads some tokens
            alone, as an expert's does.
    """
    projections = project(model, groups)
    totals: dict[str, Tensor] = {}
    num_samples = len(input_ids)
    numbers: Sequence[int] = ()

    def see(name: str, activation: Tensor) -> None:
        values = activation.detach()  # a hook that held its own tensor would keep it alive
        with_gradient(activation, lambda grad: receive(name, values, grad))

    def receive(name: str, activation: Tensor, grad: Tensor) -> None:
        index = torch.as_tensor(projections[name].index, device=grad.device)
        # OPT's projections read (tokens, in)
        shape = (len(numbers), input_ids.shape[1], activation.shape[-1])
        if activation.numel() != math.prod(shape):
            raise ValueError(
                f"{projections[name].module} reads only the tokens that a router sends it, so that gates "
                "cannot be counted by sample; choose kronecker, wanda_sp, flap, or a criterion on weights"
            )
        gates = gate_taylor(activation.reshape(shape), grad.reshape(shape) * num_samples)[:, index].sum(2)
        check_finite(gates, projections[name].module, numbers, input_ids.shape[1])
        total = (gates.square() if squared else gates).sum(0) / num_samples
        totals[name] = totals.get(name, 0) + total

    with frozen(model), observed(model, projections, see):
        for batch, numbers in batches_of(model, input_ids, batch_size, track, ranks):
            backward(model, batch, numbers, num_samples)
    ranks.add(*totals.values())
    return {name: totals[name].abs().cpu() for name in projections}


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """No weight asks for a gradient, but a graph can be recorded; afterwards everything is as before."""
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = model.training
    try:
        model.eval().requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asked[name])
        model.train(training)


@contextmanager
def observed(
    model: nn.Module,
    projections: Mapping[str, Projection],
    see: Callable[[str, Tensor], None],
    *,
    outputs: bool = False,
) -> Iterator[None]:
    """Show `see` every projection's input, (samples, seq_len, in), as it comes by, or its output."""

    def before(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _module, args: see(name, args[0])

    def after(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _module, _args, output: see(name, output)

    handles = []
    for name, projection in projections.items():
        module = model.get_submodule(projection.module)
        handles.append(
            module.register_forward_hook(after(name))
            if outputs
            else module.register_forward_pre_hook(before(name))
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
