"""Scoring and removal in turns: what is left is scored anew before more goes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruner.budget import Budget, decoder_parameters
from pruner.calibration import CalibrationData
from pruner.candidates import step_of
from pruner.discovery import discover
from pruner.groups import Group, Kept, count_parameters
from pruner.pipeline.dense import Dense
from pruner.pipeline.scoring import scored
from pruner.pipeline.settings import PruningSettings
from pruner.progress import Track
from pruner.ranks import Ranks
from pruner.selection import lowest
from pruner.surgery import remove


def prune_in_rounds(
    model: PreTrainedModel,
    dense: Dense,
    groups: Sequence[Group],
    settings: PruningSettings,
    data: CalibrationData | None,
    track: Track,
    ranks: Ranks,
) -> tuple[Kept, dict[str, Tensor]]:
    """Remove equal parts of the budget, each by scores on what the parts before have left.

    A last key-value group has query heads for units, in what is left: of it nothing goes any more.

    Returns:
        Group name -> surviving units of the dense model, and -> their scores when they went, or the last.
    """
    rounds = settings.rounds
    kept = {group.name: torch.arange(group.num_units) for group in groups}
    scores = {group.name: torch.zeros(group.num_units) for group in groups}
    now = dense
    for turn in range(1, rounds + 1):
        now = dense if turn == 1 else replace(Dense.of(model, discover(model)), dropped=dense.dropped)
        here = [group for group in now.structure.groups if len(kept.get(group.name, ())) == group.num_units]
        found = scored(model, here, settings, data, track, ranks)
        budget = settings.budget if rounds == 1 else part(dense, now, settings.budget, turn / rounds)
        removed = now.allocate(here, budget, settings.granularity, found)
        stay = {group.name: lowest(found[group.name], removed[group.name]) for group in here}
        for name, units in stay.items():
            scores[name][kept[name]] = found[name].float()
            kept[name] = kept[name][list(units)]
        remove(model, here, stay)
    return {name: tuple(units.tolist()) for name, units in kept.items()}, scores


def part(dense: Dense, now: Dense, budget: Budget, share: float) -> Budget:
    """What the model may have left when the layers that go and a share of the rest are gone."""
    if budget.widths is not None:
        return replace(budget, widths=halfway(dense, budget, share))
    layers = dense.structure.layers
    gone = decoder_parameters(dense.shapes, [layers[number] for number in dense.dropped])
    away = gone + share * (budget.asked(dense.shapes, layers) - gone)
    here = count_parameters(now.shapes, [], {})
    left = min(round(count_parameters(dense.shapes, [], {}) - away), here)
    if budget.targets and share == 1:
        return replace(budget, target_parameters=left, target_bytes=None)
    ratio = (here - left) / decoder_parameters(now.shapes, now.structure.layers)
    return replace(budget, ratio=ratio, target_parameters=None, target_bytes=None)


def halfway(dense: Dense, budget: Budget, share: float) -> dict[str, int]:
    """The widths when a share of the units beyond the budget's is gone."""
    assert budget.widths is not None
    between = {}
    for kind, width in budget.widths.items():
        step = step_of(kind, budget, 1)
        most = max((group.num_units for group in dense.structure.groups if group.kind == kind), default=width)
        between[kind] = width + step * int((most - width) * (1 - share) / step)
    return between
