"""Takes whole decoder layers out of a model: what follows gets the residual stream as it came."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from pruner.groups import Group, Kept
from pruner.slicing import gone_units

OWN_NUMBER = re.compile(r"(layer|block)_?(idx|index|id|number|num)?$|^(idx|index)$")
"""Attributes in which a layer's modules keep its own number, which tells it from no other."""

NUM_LAYERS = re.compile(r"^(num_(hidden|decoder)_layers|(num|n|decoder)_layers?)$")
"""Entries of a configuration that say how many layers there are."""

OF_NO_LAYER = ("_token_id", "_token_ids", "architectures")
"""Ends of names of lists that are as long as there are layers by chance alone."""


def remove_layers(model: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    """Take out the layers of which `kept` does not name the unit, in place.

    Those that stay are numbered anew, which is how a key-value cache tells them apart; configurations are
    copied, and say of as many layers as there are.

    Raises:
        ValueError: no layer would stay.
    """
    for group in groups:
        gone = gone_units(group, kept) if group.kind == "layer" else np.zeros(0, np.int64)
        if len(gone) == group.num_units:
            raise ValueError("no decoder layer would stay; keep at least one unit of the group of layers")
        if len(gone):
            take_out(model, group.modules, gone.tolist())


def take_out(model: nn.Module, layers: Sequence[str], gone: Sequence[int]) -> None:
    """Remove layers by their numbers from the list that holds them."""
    holder: Any = model.get_submodule(layers[0].rpartition(".")[0])
    stay = [number for number in range(len(layers)) if number not in gone]
    for number in reversed(gone):
        del holder[number]
    for number, before in enumerate(stay):
        for module in holder[number].modules():
            renumber(module, before, number)
    copies: dict[int, Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if hasattr(value, "to_dict") and hasattr(value, "model_type"):
                vars(module)[name] = shortened(value, len(layers), stay, copies)


def renumber(module: nn.Module, before: int, number: int) -> None:
    """Change the number that a layer's module has of itself."""
    for name, value in vars(module).items():
        if type(value) is int and value == before and OWN_NUMBER.search(name):
            setattr(module, name, number)


def shortened(config: Any, num_layers: int, stay: Sequence[int], copies: dict[int, Any]) -> Any:
    """A copy of a configuration, and of those in it, for the layers that stay; one copy of each."""
    if id(config) not in copies:
        copies[id(config)] = changed = copy.copy(config)
        for name, value in vars(config).items():
            if hasattr(value, "to_dict") and hasattr(value, "model_type"):
                vars(changed)[name] = shortened(value, num_layers, stay, copies)
            elif type(value) is int and value == num_layers and NUM_LAYERS.search(name):
                vars(changed)[name] = len(stay)
            elif is_per_layer(name, value, num_layers):
                vars(changed)[name] = type(value)(value[number] for number in stay)
    return copies[id(config)]


def is_per_layer(name: str, value: Any, num_layers: int) -> bool:
    """Whether an entry of a configuration is a list with something for every layer."""
    return type(value) in (list, tuple) and len(value) == num_layers and not name.endswith(OF_NO_LAYER)
