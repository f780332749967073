"""A pruned model: a stock architecture of transformers in which every module has widths of its own.

The configuration is the dense architecture's, and `pruned_modules` tells what differs from it: for a
module, or for the same module of several layers ("model.layers.4-25.mlp.up_proj"), the shapes of its
weights and the numbers it computes with. The dense modules are built first; each then gets the weights
it was left with. That knows no layer class and changes no code of the architecture's, so one file fits
them all, whatever their layers' constructors want. The dense weights cost nothing while loading:
transformers builds on the meta device, and DeepSpeed's `zero.Init` has partitioned them by then.

Needs torch and transformers (4.57 or newer), nothing else.
"""

import copy
import dataclasses
import itertools
import re

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

KEPT_OF = "kept_of_"


def with_old_rope(config):
    """Spell out `rope_parameters` in the entries of transformers 4.57, or it would take its default theta.

    Those per kind of layer (`{"full_attention": …}`) have no common older form.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return config
    old = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    scaling = {key: value for key, value in rope.items() if key not in old}
    default = rope.get("rope_type", "default") == "default"
    return {"rope_scaling": None if default else scaling, **old, **config}


class PrunedLlamaConfig(LlamaConfig):
    """The dense configuration, and what differs from it.

    `pruned_modules` builds the model; `per_layer_config`, transformers' own key, tells others the widths
    that have a name in the configuration, such as the size of a layer's key-value cache.
    """

    model_type = f"pruned_{LlamaConfig.model_type}"
    allow_global_per_layer_attribute_access = True

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Read as usual, after giving 4.57 the entries that it looks for."""
        return super().from_dict(with_old_rope(config_dict), **kwargs)

    def validate_architecture(self):
        """Widths are the modules' own: no head count has to divide the hidden size."""

    def validate_token_ids(self):
        """The parent's would read every entry, and so warn of those that differ by layer."""


if dataclasses.is_dataclass(LlamaConfig):
    from huggingface_hub.dataclasses import strict

    PrunedLlamaConfig = strict(PrunedLlamaConfig)  # or the parent's validator would be the one that runs


class Narrowed:
    """Gives the modules of a dense model their own widths as soon as they exist."""

    config_class = PrunedLlamaConfig

    def __init__(self, config, *args, **kwargs):
        per_layer = config.to_dict().get("per_layer_config")
        config.per_layer_config = getattr(config, "dense_per_layer_config", None)
        super().__init__(config, *args, **kwargs)
        config.per_layer_config = per_layer
        self.config = config
        narrow(self, config.pruned_modules)


class PrunedLlamaModel(Narrowed, LlamaModel):
    """The pruned model without the head."""


class PrunedLlamaForCausalLM(Narrowed, LlamaForCausalLM):
    """The pruned model with its language-model head."""

    @classmethod
    def from_pretrained(cls, *args, output_loading_info=False, **kwargs):
        """Load as usual, but never go on with weights that the folder does not have."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            raise ValueError(
                f"the folder has no weights for {sorted(info['missing_keys'])[:3]}: this release of "
                "transformers names them otherwise than the one that saved them; load with that one"
            )
        return (model, info) if output_loading_info else model


class Weight(nn.Module):
    """Makes one weight. A module's constructor is where `zero.Init` partitions what was made."""

    def __init__(self, shape, like):
        super().__init__()
        new = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.weight = nn.Parameter(new, requires_grad=like.requires_grad)


def narrow(model, pruned_modules):
    """Change every module of `model` that `pruned_modules` names; tied weights stay tied."""
    made = {}
    modules = dict(model.named_modules())
    for pattern, facts in pruned_modules.items():
        for name in spelled_out(pattern):
            for key, value in facts.items():
                module = modules.get(name) or modules.get(name.removeprefix(f"{model.base_model_prefix}."))
                if module is not None:  # the trunk alone has no head
                    set_fact(module, key, value, made)


def spelled_out(pattern):
    """Expand "layers.0,2-3.mlp" to "layers.0.mlp", "layers.2.mlp" and "layers.3.mlp"."""
    choices = []
    for part in pattern.split("."):
        ranges = re.findall(r"(\d+)(?:-(\d+))?", part) if re.fullmatch(r"[\d,-]+", part) else []
        numbers = [n for first, last in ranges for n in range(int(first), int(last or first) + 1)]
        choices.append(numbers or [part])
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
        if key.startswith(KEPT_OF) and not hasattr(module, key):
            module.register_forward_pre_hook(take_arguments, with_kwargs=True)
        setattr(module, key, tuple(value) if isinstance(getattr(module, key, None), tuple) else value)


def take_arguments(module, args, kwargs):
    """Let a module see only the indices it keeps of an argument: of ALiBi's slopes those of its heads.

    "kept_of_ARGUMENT" holds the axis, its dense size, and the indices; an axis may hold them several times.
    """
    taken = dict(kwargs)
    for key, value in vars(module).items():
        argument = kwargs.get(key.removeprefix(KEPT_OF)) if key.startswith(KEPT_OF) else None
        if argument is not None:
            dim, size, *indices = value
            index = torch.as_tensor(indices, device=argument.device)
            kept = argument.unflatten(dim, (-1, size)).index_select(dim + 1, index)
            taken[key.removeprefix(KEPT_OF)] = kept.flatten(dim, dim + 1)
    return args, taken


def narrow_weight(old, shape, made):
    """Make the weight that takes the place of `old`, one for all places that share it."""
    if shape is None:
        return None
    if id(old) not in made:
        made[id(old)] = corner(old, Weight(shape, old).weight), old  # kept alive: its id stays its own
    return made[id(old)][0]


def corner(old, new):
    """Fill `new` with the first rows and columns of `old`, where both hold values."""
    fits = old.dim() == new.dim() and all(have >= want for have, want in zip(old.shape, new.shape))
    if fits and not new.is_meta and not old.is_meta:
        with torch.no_grad():
            new.copy_(old[tuple(slice(size) for size in new.shape)])
    return new
