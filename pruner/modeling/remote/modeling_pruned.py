"""A pruned model: a stock architecture of transformers in which every module has a width of its own.

The configuration is the dense architecture's. Its `pruned_modules` tells what differs from it: for a
module (or for the same module of several layers, "model.layers.4-25.mlp.up_proj") the shapes of its
weights and the numbers it computes with. The dense modules are built first, each then gets the weights
it was left with. So this file fits every architecture, whatever its layers' constructors want: it knows
no layer class, and those of transformers stay as they are. Dense weights are never filled when loading:
transformers builds on the meta device, and DeepSpeed's `zero.Init` has partitioned them by then.

It needs torch and transformers (4.57 or newer) alone.
"""

import copy
import dataclasses
import itertools
import re

import torch
from torch import nn
from transformers import LlamaConfig as DenseConfig
from transformers import LlamaForCausalLM as DenseForCausalLM
from transformers import LlamaModel as DenseModel


class PrunedConfig(DenseConfig):
    """The dense configuration, and what differs from it.

    `pruned_modules` builds the model; `per_layer_config`, transformers' own key, tells the rest of the
    world the widths that have a name in the configuration (key-value caches are sized by it).
    """

    model_type = f"pruned_{DenseConfig.model_type}"
    allow_global_per_layer_attribute_access = True

    def validate_architecture(self):
        """Widths are the modules' own: no head count has to divide the hidden size."""


if dataclasses.is_dataclass(DenseConfig):
    from huggingface_hub.dataclasses import strict

    PrunedConfig = strict(PrunedConfig)  # or the parent's validator would still be the one that runs


class Narrowed:
    """Gives the modules of a dense model their own widths as soon as they exist."""

    config_class = PrunedConfig

    def __init__(self, config, *args, **kwargs):
        per_layer = config.to_dict().get("per_layer_config")
        config.per_layer_config = None
        super().__init__(config, *args, **kwargs)
        config.per_layer_config = per_layer
        self.config = config
        narrow(self, config.pruned_modules)


class PrunedForCausalLM(Narrowed, DenseForCausalLM):
    """The pruned model with its language-model head."""


class PrunedModel(Narrowed, DenseModel):
    """The pruned model without the head."""


class Weight(nn.Module):
    """Makes one weight. A module's constructor is where `zero.Init` partitions what was made."""

    def __init__(self, shape, like):
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(shape, dtype=like.dtype, device=like.device), requires_grad=like.requires_grad
        )


def narrow(model, pruned_modules):
    """Change every module of `model` that `pruned_modules` names; tied weights stay tied."""
    made = {}
    names = dict(model.named_modules())
    prefix = model.base_model_prefix + "."
    for pattern, facts in pruned_modules.items():
        for name in spelled_out(pattern):
            module = names.get(name) or names.get(name.removeprefix(prefix))
            if module is None and isinstance(model, PrunedForCausalLM):
                raise ValueError(f"config.json names {name!r}, a module that this architecture does not have")
            for key, value in facts.items() if module is not None else ():
                set_fact(module, key, value, made)


def spelled_out(pattern):
    """ "layers.0,2-3.mlp" -> "layers.0.mlp", "layers.2.mlp", "layers.3.mlp"."""
    choices = []
    for part in pattern.split("."):
        ranges = part.split(",") if re.fullmatch(r"[\d,-]+", part) else None
        ends = [[int(end) for end in ends.split("-")] for ends in ranges or ()]
        choices.append([i for end in ends for i in range(end[0], end[-1] + 1)] if ranges else [part])
    return [".".join(map(str, parts)) for parts in itertools.product(*choices)]


def set_fact(module, key, value, made):
    """Give a module a weight or buffer of this shape, or this number."""
    if key in module._parameters:
        module._parameters[key] = narrow_weight(module._parameters[key], value, made)
    elif key in module._buffers:
        old = module._buffers[key]
        module._buffers[key] = corner(old, torch.empty(value, dtype=old.dtype, device=old.device))
        module._non_persistent_buffers_set.discard(key)
    elif key == "config":
        module.config = copy.copy(module.config)
        for field, number in value.items():
            setattr(module.config, field, number)
    else:
        setattr(module, key, tuple(value) if isinstance(getattr(module, key, None), tuple) else value)


def narrow_weight(old, shape, made):
    """The narrower weight that takes the place of `old`, one for all places that share it."""
    if shape is None:
        return None
    if id(old) not in made:
        new = Weight(shape, old).weight
        made[id(old)] = corner(old, new), old  # `old` is kept alive, so that its id stays its own
    return made[id(old)][0]


def corner(old, new):
    """`new`, filled with the first rows and columns of `old` where both hold values."""
    fits = old.dim() == new.dim() and all(have >= want for have, want in zip(old.shape, new.shape))
    if fits and not new.is_meta and not old.is_meta:
        with torch.no_grad():
            new.copy_(old[tuple(slice(size) for size in new.shape)])
    return new
