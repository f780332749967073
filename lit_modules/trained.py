"""What is trained of a model: its names, shapes and values, whole or parted by ZeRO."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


def trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield what asks for a gradient, by name."""
    yield from ((name, value) for name, value in module.named_parameters() if value.requires_grad)


def trained_shapes(module: nn.Module) -> dict[str, list[int]]:
    """Name -> shape of all that is trained, also where this rank holds but a part of it."""
    return {name: list(getattr(value, "ds_shape", value.shape)) for name, value in trained(module)}


def trained_weights(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Name -> value of all that is trained, on the CPU, fp32 if it was trained so.

    Under ZeRO all ranks call this; those that do not `keep` collect one parameter at a time and return
    nothing.
    """
    weights = {}
    for name, value in trained(module):
        whole = gathered(value)
        if keep:
            weights[name] = whole.cpu()
    return weights


def gathered(parameter: nn.Parameter) -> Tensor:
    """A copy of the whole parameter; under ZeRO the fp32 one, collected from all ranks."""
    if not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping"):
        return parameter.detach().clone()
    from deepspeed.utils import safe_get_full_fp32_param

    whole: Tensor = safe_get_full_fp32_param(parameter).detach().clone()
    return whole


def global_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients together."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm: Tensor = nn.utils.get_total_norm(grads) if grads else torch.zeros(())
    return norm
