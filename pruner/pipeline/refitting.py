"""Removal of what is decided, with a refit of what remains."""

from torch import Tensor
from transformers import PreTrainedModel

from pruner.compensation import Compensation
from pruner.groups import Kept
from pruner.pipeline.dense import Dense
from pruner.pipeline.walk import compress
from pruner.progress import Track
from pruner.ranks import ALONE, Ranks


def compensate(
    model: PreTrainedModel,
    dense: Dense,
    kept: Kept,
    input_ids: Tensor,
    settings: Compensation,
    track: Track,
    ranks: Ranks = ALONE,
) -> None:
    """Remove what is decided, and refit what remains."""
    losing = [
        group
        for group in dense.structure.groups
        if group.kind != "layer" and len(kept.get(group.name, range(group.num_units))) < group.num_units
    ]
    if losing:
        decided = {group.name: tuple(kept[group.name]) for group in losing}
        compress(
            model,
            dense.structure,
            losing,
            input_ids,
            lambda projection, *_seen: decided[projection.group.name],
            settings,
            track,
            ranks,
            dense.dropped,
        )
