"""Where a model differs from its dense architecture: shapes of weights, and numbers its modules hold."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Facts = dict[str, Any]
"""What is told of one module: a weight's or buffer's shape, a number, or the numbers in its `config`."""

Modules = dict[str, Facts]

PASSING = (
    *("training", "gradient_checkpointing", "name_or_path", "max_seq_len_cached", "warnings_issued"),
    *("loss_type", "architectures", "transformers_version", "return_dict", "attn_implementation"),
)
"""Attributes that tell of a model's use and not of what it computes."""


WRITTEN = "modeling_pruned"
"""The module that is saved beside a pruned model's weights."""


def stock_class(cls: type[Any]) -> type[Any]:
    """The dense architecture's class: the first of a class and its ancestors that pruning did not write."""
    return next(base for base in cls.__mro__ if not base.__module__.rpartition(".")[2].startswith(WRITTEN))


def dense_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The dense architecture's configuration, without what an earlier pruning wrote into it."""
    cls = stock_class(type(config))
    dense: PreTrainedConfig
    if cls is type(config):
        dense = copy.deepcopy(config)
    else:
        values = config.to_dict()
        for key in ("auto_map", "pruned_modules", "model_type"):
            values.pop(key, None)
        values["per_layer_config"] = values.pop("dense_per_layer_config", None)
        dense = cls(**values)
        dense._attn_implementation = config._attn_implementation
    dense.architectures = None
    dense.name_or_path = ""
    return dense


def with_head_dim(cls: type[Any], config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with `head_dim` spelled out, for the architectures that heed it.

    A head's width is often left to be the hidden size over the number of heads; with fewer heads that
    would be another.
    """
    if config.is_heterogeneous or getattr(config, "head_dim", None) is not None:
        return config
    heads, hidden = (getattr(config, name, None) for name in ("num_attention_heads", "hidden_size"))
    if not heads or not hidden:
        return config
    spelled, other = (copy.deepcopy(config) for _ in range(2))
    spelled.head_dim, other.head_dim = hidden // heads, 2 * (hidden // heads)
    heeded = structure(build(cls, spelled)) != structure(build(cls, other))
    return spelled if heeded else config


def build(cls: type[Any], config: PreTrainedConfig) -> PreTrainedModel:
    """A model without storage: its structure alone."""
    with torch.device("meta"):
        model: PreTrainedModel = cls(config)
    return model


def structure(model: PreTrainedModel, shared: PreTrainedConfig | None = None) -> Modules:
    """What determines a model's arithmetic beside its weights' values, module by module.

    Args:
        model: any model, on any device.
        shared: a configuration of which nothing needs to be told where a module holds this very one.
    """
    return {name: facts_of(module, shared) for name, module in model.named_modules()}


def facts_of(module: nn.Module, shared: PreTrainedConfig | None) -> Facts:
    """Shapes and plain numbers of one module, without its children's."""
    facts: Facts = {
        name: None if tensor is None else list(tensor.shape)
        for name, tensor in itertools.chain(module._parameters.items(), module._buffers.items())
    }
    own = vars(module)
    facts.update({key: plain(value) for key, value in own.items() if tells(key, value)})
    config = own.get("config")
    if config is not None and config is not shared:
        facts["config"] = {key: plain(value) for key, value in vars(config).items() if tells(key, value)}
    return facts


def tells(key: str, value: Any) -> bool:
    """Whether an attribute is a plain value that a forward pass may compute with."""
    if key.startswith("_") or key in PASSING:
        return False
    flat = value if isinstance(value, (list, tuple)) else (value,)
    return all(item is None or isinstance(item, (bool, int, float, str)) for item in flat)


def plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def differences(own: Modules, dense: Modules) -> Modules:
    """What must be told of each module to get `own` from `dense`.

    Raises:
        ValueError: modules came or went, which the dense architecture cannot express.
    """
    if own.keys() != dense.keys():
        name = sorted(own.keys() ^ dense.keys())[0]
        where = "only the pruned" if name in own else "only the dense"
        raise ValueError(f"{where} model has a module {name!r}: which its configuration does not describe")
    told = {name: changed(facts, dense[name]) for name, facts in own.items()}
    return {name: facts for name, facts in told.items() if facts}


def settled(own: Modules, dense: Modules, unsaved: Collection[str]) -> Modules:
    """A model's structure without what running leaves behind: flags set, tables made that are made anew.

    Args:
        own, dense: structures of the pruned and of the dense model.
        unsaved: names of the pruned model's buffers that are not saved.
    """
    return {
        name: {
            key: dense[name][key] if type(value) is bool and key in dense[name] else value
            for key, value in facts.items()
            if key in dense[name] or f"{name}.{key}".lstrip(".") not in unsaved
        }
        if name in dense
        else facts
        for name, facts in own.items()
    }


def changed(own: Facts, dense: Facts) -> Facts:
    """The facts that are not the dense module's; those of a `config` of its own field by field."""
    facts = {key: value for key, value in own.items() if key not in dense or dense[key] != value}
    facts.update(dict.fromkeys(dense.keys() - own.keys() - {"config"}))
    if "config" in facts:
        before = dense.get("config", {})
        facts["config"] = {key: value for key, value in own["config"].items() if before.get(key) != value}
        if not facts["config"]:
            del facts["config"]
    return facts


def sizes(modules: Mapping[str, Facts]) -> dict[tuple[str, str, int], int]:
    """Every whole number told of a model: (module, what, axis) -> number; axis -1 for a plain number."""
    found = {}
    for name, facts in modules.items():
        for key, value in facts.items():
            numbers = enumerate(value) if isinstance(value, list) else [(-1, value)]
            found.update({(name, key, axis): number for axis, number in numbers if type(number) is int})
    return found


def only_stale(left: Modules, dense: Modules) -> bool:
    """Whether all that is told are plain whole numbers that the dense model has too.

    Surgery changes the numbers that a module computes with, and lets others say what they said.
    """
    return all(
        type(value) is int and dense[name].get(key) == value
        for name, facts in left.items()
        for key, value in facts.items()
    )
