"""Biases for projections that have none, where the architecture has a place for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pruner.modeling.widths import build, dense_config, stock_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def bias_switches(model: PreTrainedModel, modules: Collection[str]) -> tuple[str, ...]:
    """The entries of the configuration, false as yet, by which `modules` come to have a bias.

    Found by building the architecture without storage, once with each.

    Raises:
        ValueError: some of the modules can have none.
    """
    wanted = {f"{module}.bias" for module in modules}
    plain, switches = parameters_with(model, ()), []
    missing = wanted - plain
    for entry, value in dense_config(model.config).to_dict().items():
        if value is False and "bias" in entry and missing:
            gained = parameters_with(model, (entry,)) - plain
            if gained & wanted:
                switches.append(entry)
                missing -= gained
    if missing:
        raise ValueError(
            f"{stock_class(type(model)).__name__} has no place for a bias in {min(missing)[: -len('.bias')]} "
            f"({len(missing)} such modules): set compensation.bias to false"
        )
    return tuple(switches)


@torch.no_grad()
def complete_biases(model: PreTrainedModel, switches: Collection[str]) -> None:
    """Turn the switches on, and give a bias of zeros to all that has one by them and none yet."""
    if not switches:
        return
    own = {name for name, _ in model.named_parameters()}
    for name in sorted(parameters_with(model, switches) - own):
        module: Any = model.get_submodule(name.removesuffix(".bias"))
        module.bias = nn.Parameter(module.weight.new_zeros(module.out_features), module.weight.requires_grad)
    for config in configurations(model):
        for switch in switches:
            setattr(config, switch, True)


def parameters_with(model: PreTrainedModel, switches: Collection[str]) -> set[str]:
    """Names of the parameters that the model's dense architecture has with some switches on."""
    config = dense_config(model.config)
    for switch in switches:
        setattr(config, switch, True)
    return {name for name, _ in build(stock_class(type(model)), config).named_parameters()}


def configurations(model: PreTrainedModel) -> Iterator[Any]:
    """The model's configuration, and the copies of it that single modules hold, once each."""
    found = {id(model.config): model.config}
    for module in model.modules():
        config = vars(module).get("config")
        if isinstance(config, type(model.config)):
            found[id(config)] = config
    yield from found.values()
