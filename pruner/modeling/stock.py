"""The stock class of transformers that describes a pruned model, if one does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pruner.modeling.arithmetic import same_arithmetic
from pruner.modeling.widths import (
    Modules,
    build,
    dense_config,
    differences,
    only_stale,
    stock_class,
    structure,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SAME_ARITHMETIC: Mapping[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("MistralForCausalLM", {"sliding_window": None}),
}
"""Class -> another that computes the same with these entries and refuses less.

LlamaConfig demands that the heads divide the hidden size, MistralConfig does not.
"""


def stock_model(
    rebuilt: PreTrainedModel, own: Modules, dense: Modules, fields: Mapping[str, dict[int, int]]
) -> PreTrainedModel | None:
    """A stock model without storage that computes exactly what the pruned one does; None if there is none.

    Args:
        rebuilt: the pruned model on the meta device, as the per-layer form builds it.
        own, dense: the structures of the pruned and of the dense model.
        fields: entries of the configuration that changed, as `changed_fields` gives them.
    """
    if any(len(set(values.values())) > 1 for values in fields.values()):
        return None
    config = dense_config(rebuilt.config)
    changes: dict[str, Any] = {field: next(iter(values.values())) for field, values in fields.items()}
    changes.update(changed_numbers(config, own, dense))
    for cls, further in filter(loads_unaided, variants(stock_class(type(rebuilt)))):
        values = {**config.to_dict(), **changes, **further}
        values.pop("model_type", None)
        try:
            model = build(cls, cls.config_class(**values))
            left = differences(own, structure(model))
        except Exception:  # a configuration that the class refuses is not the one sought
            continue
        if not left or (only_stale(left, dense) and same_arithmetic(model, rebuilt)):
            return model
    return None


def variants(cls: type[Any]) -> list[tuple[type[Any], dict[str, Any]]]:
    """The class itself, then the one with the same arithmetic."""
    import transformers

    found: list[tuple[type[Any], dict[str, Any]]] = [(cls, {})]
    if cls.__name__ in SAME_ARITHMETIC:
        name, further = SAME_ARITHMETIC[cls.__name__]
        found.append((getattr(transformers, name), further))
    return found


def loads_unaided(variant: tuple[type[Any], dict[str, Any]]) -> bool:
    """Whether AutoModelForCausalLM gives this very class for its configuration.

    It does not for a decoder that only a composite configuration leads to, such as Emu3's or Musicgen's.
    """
    from transformers import AutoModelForCausalLM

    cls, mapping = variant[0], AutoModelForCausalLM._model_mapping
    return cls.config_class in mapping and mapping[cls.config_class] is cls


def changed_numbers(config: PreTrainedConfig, own: Modules, dense: Modules) -> dict[str, float]:
    """Entries like a norm's epsilon, where all that had the entry's value changed to one other."""
    new: dict[float, set[float]] = {}
    for name, facts in own.items():
        for key, value in facts.items():
            before = dense[name].get(key)
            if type(value) is float and type(before) is float and value != before:
                new.setdefault(before, set()).add(value)
    return {
        field: next(iter(new[value]))
        for field, value in config.to_dict().items()
        if type(value) is float and len(new.get(value, ())) == 1
    }
