"""Which entries of a configuration say the widths that a pruned model has, in every layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pruner.modeling.compaction import split_layer
from pruner.modeling.widths import build, sizes, structure

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Place = tuple[str, str, int]
"""Module, weight or attribute, axis of the weight (-1: the attribute is a number)."""

Sizes = Mapping[Place, int]

OUTSIDE = -1
NEVER_WIDTHS = (
    *("_token_id", "_token_ids", "vocab_size", "max_position_embeddings", "num_hidden_layers"),
    "head_dim",  # heads go whole: half as many heads, not heads of half the width
)


def changed_fields(
    cls: type[Any], config: PreTrainedConfig, own: Sizes, dense: Sizes
) -> dict[str, dict[int, int]]:
    """Entries of the configuration that differ from the dense model's: entry -> layer -> value.

    An entry's footprint is every size that is a fixed multiple of it; it is found by building the
    architecture, on the meta device, with another value. A layer's value is the one on which the whole
    footprint in that layer agrees. An entry without such a value in some layer says nothing.

    Args:
        cls: the dense model's class.
        config: its configuration.
        own, dense: the sizes of the pruned and of the dense model.

    Returns:
        Every layer's value, of changed entries alone; `OUTSIDE` stands for what lies in no layer.
    """
    found = {}
    for field, footprint in footprints(cls, config, own, dense):
        values = agreed(footprint, own)
        if values is not None and values != agreed(footprint, dense):
            found[field] = values
    return found


def footprints(
    cls: type[Any], config: PreTrainedConfig, own: Sizes, dense: Sizes
) -> Iterator[tuple[str, dict[Place, int]]]:
    """(entry, its footprint: place -> multiple) for every entry that may have changed."""
    pairs = {(dense[place], own[place]) for place in dense if own.get(place, dense[place]) != dense[place]}
    for field, value in candidates(config):
        if value is None:
            first = probe(cls, config, field, 96)
            value = 96
        else:
            if not any(old % value == 0 and new % (old // value) == 0 for old, new in pairs):
                continue
            first = dense
        for other in (2 * value, value // 2, 1):
            second = probe(cls, config, field, other) if first and other not in (0, value) else None
            if first and second:
                yield field, multiples(first, value, second, other)
                break


def candidates(config: PreTrainedConfig) -> Iterator[tuple[str, int | None]]:
    """Entries that may be a width: whole numbers above one, and those this architecture may leave open."""
    from transformers import PreTrainedConfig

    common = set(PreTrainedConfig().to_dict())
    for field, value in config.to_dict().items():
        if field in common or field.endswith(NEVER_WIDTHS):
            continue
        if value is None or (type(value) is int and value > 1):
            yield field, value


def probe(cls: type[Any], config: PreTrainedConfig, field: str, value: int) -> Sizes | None:
    """The sizes of a model whose configuration has another value in one entry; None if it cannot be."""
    try:
        return sizes(structure(build(cls, type(config)(**{**config.to_dict(), field: value}))))
    except Exception:  # constructors refuse in their own ways, and each way is an answer
        return None


def multiples(first: Sizes, value: int, second: Sizes, other: int) -> dict[Place, int]:
    """Places whose size is the same whole multiple of `value` in one model and of `other` in the other."""
    return {
        place: size // value
        for place, size in first.items()
        if size and size % value == 0 and second.get(place) == size // value * other
    }


def agreed(footprint: Mapping[Place, int], own: Sizes) -> dict[int, int] | None:
    """Layer -> the value on which its whole footprint agrees, None where one does not.

    Weights are believed before attributes, some of which nobody reads and surgery leaves as they were.
    """
    values: dict[int, int] = {}
    weights = {place: multiple for place, multiple in footprint.items() if place[2] >= 0}
    for place, multiple in (weights or footprint).items():
        value, rest = divmod(own.get(place, 0), multiple)
        layer = split_layer(place[0])[1]
        if rest or values.setdefault(OUTSIDE if layer is None else layer, value) != value:
            return None
    return values
