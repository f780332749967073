"""Which decoder layers are alike: the same modules with equal attributes, shapes and configuration."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruner.depth import OWN_NUMBER
from pruner.discovery.values import Values

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
PLAIN = (int, float, complex, str, bytes, bool, type(None), enum.Enum, torch.dtype, torch.device)


def alike(model: nn.Module, layers: Sequence[str], values: Values) -> tuple[tuple[str, ...], ...]:
    """Collect the layers that compute the same but for their weights, in the order of the model.

    What cannot be compared is taken to differ.

    Args:
        model: what holds them, on the meta device.
        layers: their names.
        values: of its integer and boolean buffers.
    """
    shared = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    config = getattr(model, "config", None)
    kinds: dict[Hashable, list[str]] = {}
    for number, name in enumerate(layers):
        look = Look(number, len(layers), shared, values, {})
        key = (look.module(model.get_submodule(name)), look.told(config))
        kinds.setdefault(key, []).append(name)
    return tuple(tuple(names) for names in kinds.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What one layer looks like, as values that are equal where two layers are.

    Attributes:
        number, num_layers: the layer's number, and how many there are.
        shared: identity of a parameter -> how often it occurs in the model.
        values: of constants.
        seen: identity of a configuration -> how it looks.
    """

    number: int
    num_layers: int
    shared: Mapping[int, int]
    values: Values
    seen: dict[int, Hashable]

    def module(self, layer: nn.Module) -> Hashable:
        """A layer, with all that is in it."""
        names = {id(module): name for name, module in layer.named_modules()}
        inside = Counter(id(p) for _, p in layer.named_parameters(remove_duplicate=False))
        first = {id(p): name for name, p in layer.named_parameters()}
        found: list[Hashable] = []
        for name, module in layer.named_modules(remove_duplicate=False):
            found.append((name, names[id(module)], type(module)))
            found += [(key, self.value(key, vars(module)[key])) for key in sorted(plain_keys(module))]
            found += [(key, tuple(map(id, vars(module)[key].values()))) for key in HOOKS]
        for name, parameter in layer.named_parameters(remove_duplicate=False):
            own = inside[id(parameter)] == self.shared[id(parameter)]
            found.append((name, first[id(parameter)] if own else id(parameter), *shape_of(parameter)))
        found += [(name, self.tensor(buffer)) for name, buffer in layer.named_buffers(remove_duplicate=False)]
        return tuple(found)

    def value(self, key: str, value: Any) -> Hashable:
        """An attribute, or an entry of a container."""
        if isinstance(value, int) and not isinstance(value, bool) and OWN_NUMBER.search(key):
            return "own number" if value == self.number else value
        if isinstance(value, PLAIN):
            return (type(value), value)
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, Mapping):
            return tuple((str(name), self.value("", entry)) for name, entry in value.items())
        if type(value) in (list, tuple, set, frozenset):
            return (type(value), tuple(self.value("", entry) for entry in value))
        if isinstance(value, functools.partial):
            return (id(value.func), self.value("", value.args), self.value("", value.keywords))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self.config(value)
        return id(value)

    def config(self, config: Any) -> Hashable:
        """A configuration, and what it says of this layer alone."""
        if id(config) not in self.seen:
            self.seen[id(config)] = id(config)  # should it hold itself
            entries = tuple((key, self.value("", value)) for key, value in vars(config).items())
            self.seen[id(config)] = (type(config), entries)
        return (self.seen[id(config)], self.told(config))

    def told(self, config: Any) -> Hashable:
        """The layer's own entries in the lists of a configuration that has one for every layer, or some."""
        found: list[Hashable] = []
        for key, value in vars(config).items() if hasattr(config, "__dict__") else ():
            if isinstance(value, (list, tuple)) and len(value) == self.num_layers:
                found.append((key, self.value("", value[self.number])))
            elif isinstance(value, (list, tuple, set)) and not key.endswith(("_token_id", "_token_ids")):
                found.append((key, self.number in value))
            elif dataclasses.is_dataclass(value) and key.endswith("config"):
                found.append((key, self.told(value)))
        return tuple(found)

    def tensor(self, tensor: Tensor) -> Hashable:
        """A buffer or an attribute: its shape, and its values where these are known."""
        known = self.values.of(tensor)
        return (*shape_of(tensor), None if known is None else digest(known))


def plain_keys(module: nn.Module) -> set[str]:
    """The attributes of a module that torch did not put there."""
    return vars(module).keys() - OF_EVERY_MODULE


def digest(tensor: Tensor) -> bytes:
    """Short, and equal for equal values."""
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).digest()


def shape_of(tensor: Tensor) -> tuple[Hashable, ...]:
    """What two tensors have in common whose values differ."""
    return (tuple(tensor.shape), tensor.dtype)
