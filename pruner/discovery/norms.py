"""Root-mean-square norms over an axis that a family cuts: what makes up for the zeros that go."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pruner.discovery.constraints import Mark
from pruner.discovery.events import ModuleCall
from pruner.discovery.families import Family
from pruner.discovery.operation import States
from pruner.discovery.probing import units_along
from pruner.discovery.solving import Ints
from pruner.groups import Norm
from pruner.slicing import rescale_norm

TOLERANCE = 1e-5
"""Norms compute in float32, whatever their weights are."""


def find_norms(
    family: Family, marks: Sequence[Mark], calls: Sequence[ModuleCall], states: States, twin: nn.Module
) -> tuple[Norm, ...] | str:
    """The norms that average over a family's units, or the place of an average that nothing makes up for."""
    norms: dict[str, Norm] = {}
    for mark in marks:
        if mark.module in norms:
            continue
        module, call = twin.get_submodule(mark.module), next(c for c in calls if c.name == mark.module)
        norm = next(
            (norm for norm in norms_like(family, call, states, module) if holds(module, call, norm)), None
        )
        if norm is None:
            return f"{mark.reason} counts the zeros that would go"
        norms[mark.module] = norm
    return tuple(norms.values())


def norms_like(family: Family, call: ModuleCall, states: States, module: nn.Module) -> Iterator[Norm]:
    """What the module may be, if it is a norm over the last axis of its argument."""
    index = last_axis(family, call, states)
    weight = getattr(module, "weight", None)
    if index is None or (weight is not None and weight.dim() != 1):
        return
    size = call.args[0].size(-1)
    for name, value in vars(module).items():
        if isinstance(value, float) and 0 < value < 0.01:
            for offset in (0.0, 1.0):
                yield Norm(call.name, None if weight is None else "weight", offset, name, size, index)


def last_axis(family: Family, call: ModuleCall, states: States) -> Ints | None:
    """(num_units, width) what the units own of the last axis of a module's first argument."""
    if not call.args or not isinstance(call.args[0], Tensor):
        return None
    found = (units_along(family, labels) for labels in states.of(call.args[0]).on(call.args[0].dim() - 1))
    return next((index for index in found if index is not None), None)


def holds(module: nn.Module, call: ModuleCall, norm: Norm) -> bool:
    """Run it on random numbers: with channels zeroed, and with these gone and itself rescaled.

    The numbers are so small that epsilon matters.
    """
    generator = torch.Generator().manual_seed(0)
    gone = torch.as_tensor(norm.index[1::2].reshape(-1))
    kept = torch.as_tensor(np.setdiff1d(np.arange(norm.size), gone))
    wide = copy.deepcopy(module).to_empty(device="cpu").float()
    scale = math.sqrt(getattr(module, norm.epsilon))
    with torch.no_grad():
        for tensor in (*wide.parameters(), *wide.buffers()):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        args = [torch.randn(t.shape, generator=generator) for t in call.args if isinstance(t, Tensor)]
        args = [args[0] * scale, *args[1:]]
        args[0][..., gone] = 0
        narrow = copy.deepcopy(wide)
        for parameter in narrow.parameters():
            parameter.data = parameter.data.index_select(-1, kept)
        rescale_norm(narrow, norm, len(gone))
        try:
            expected = wide(*args)[..., kept]
            found = narrow(*[arg[..., kept] if arg.size(-1) == norm.size else arg for arg in args])
        except Exception:  # a module that is no norm fails in its own way
            return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
