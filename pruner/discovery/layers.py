"""The decoder's layers, and which module and layer a parameter belongs to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from torch import nn


def decoder_layers(model: nn.Module, ran: Collection[str] | None = None) -> tuple[str, ...]:
    """Names of the decoder's layers in order: the members of the outermost list with most parameters.

    Args:
        model: what holds them.
        ran: names of the modules that ran, None if that is not known; an encoder of images does not run
            on text alone.
    """
    best = 0
    names: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or re.search(r"\.\d+\.", f".{name}."):
            continue
        if ran is not None and not any(f"{name}.{number}" in ran for number in range(len(module))):
            continue
        size = sum(parameter.numel() for parameter in module.parameters())
        if size > best:
            best, names = size, tuple(f"{name}.{number}" for number in range(len(module)))
    return names


def owner_of(names: Iterable[str]) -> str:
    """The innermost module that holds all these parameters."""
    paths = [name.split(".")[:-1] for name in names]
    shared = paths[0]
    for path in paths[1:]:
        length = next(
            (i for i, (a, b) in enumerate(zip(shared, path)) if a != b), min(len(shared), len(path))
        )
        shared = shared[:length]
    return ".".join(shared)


def layer_of(name: str, layers: Sequence[str]) -> int | None:
    """Index of the decoder layer that a module or parameter lies in, None if it lies in none."""
    return next((i for i, layer in enumerate(layers) if f"{name}.".startswith(f"{layer}.")), None)


def lies_in(name: str, layer: str) -> bool:
    """Whether a parameter, an argument or a module belongs to a layer."""
    return name.startswith(layer) and name[len(layer) : len(layer) + 1] in ("", ".", ":")
