"""From a causal language model to its groups."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn

from pruner.discovery.structure import Refusal, Structure
from pruner.discovery.tracing import trace
from pruner.groups import Group, Kind, Slice


def discover(model: nn.Module, inputs: dict[str, Any] | None = None) -> Structure:
    """Trace one forward pass on a meta copy of the model and solve for its groups; the model is not touched.

    Raises:
        ValueError: the model has no causal-LM head or is quantised.
    """
    twin = meta_copy(model)
    layers = decoder_layers(twin)
    groups: list[Group] = []
    refused: list[Refusal] = []
    taken: set[str] = set()
    families = trace(twin, inputs).families()
    widest: dict[str, int] = {}
    for family in families:
        owner = common_owner([name for name, _, _ in family.sig])
        if kind_of(family) == "attention":
            widest[owner] = max(widest.get(owner, 0), len(family.sig))
    for family in families:
        kind = kind_of(family)
        owner = common_owner([name for name, _, _ in family.sig])
        if kind == "attention" and len(family.sig) < widest[owner]:
            kind = "query"
        layer = layer_of(owner, layers)
        if kind is None or layer is None:
            continue
        if family.frozen or family.touched:
            refused.append(Refusal(owner, ", ".join(sorted(family.touched)) or "frozen"))
            continue
        name = owner if owner not in taken and kind != "query" else f"{owner}.{kind}"
        taken.add(name)
        slices = tuple(
            Slice(n, d, index, reads) for (n, d, _), index, reads in zip(family.sig, family.idx, family.cons)
        )
        groups.append(Group(name, kind, layer, family.n, slices))
    return Structure(tuple(sorted(groups, key=lambda g: (g.layer or 0))), layers, tuple(refused))


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters and buffers live on the meta device."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta") if buffer.is_floating_point() else buffer
    twin: nn.Module = copy.deepcopy(model, memo)
    return twin.eval()


def decoder_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the decoder's layers: the members of the module list that holds the most parameters."""
    best: tuple[int, tuple[str, ...]] = (0, ())
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not re.search(r"\.\d+\.", name):
            size = sum(parameter.numel() for parameter in module.parameters())
            if size > best[0]:
                best = (size, tuple(f"{name}.{i}" for i in range(len(module))))
    return best[1]


def kind_of(family: Any) -> Kind | None:
    """Read the kind off what the trace saw; None for what cannot be removed by itself."""
    reads = any(family.cons)
    if not reads or all(family.cons):
        return None
    if not family.derived:
        return "mlp"
    if family.batch:
        return "attention"
    return None


def common_owner(names: list[str]) -> str:
    """The innermost module that owns all the parameters."""
    paths = [name.split(".")[:-1] for name in names]
    length = 0
    while all(len(path) > length for path in paths) and len({path[length] for path in paths}) == 1:
        length += 1
    return ".".join(paths[0][:length])


def layer_of(owner: str, layers: tuple[str, ...]) -> int | None:
    """Index of the decoder layer that holds the module, None where none does."""
    for index, layer in enumerate(layers):
        if (owner + ".").startswith(layer + "."):
            return index
    return None
