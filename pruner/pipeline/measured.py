"""Budgets stated in what a model costs to run: the ratio at which it has come down to that."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from pruner.budget import Budget, decoder_parameters
from pruner.evaluation.cost import measure_size, measure_speed
from pruner.groups import Group
from pruner.pipeline.dense import Dense
from pruner.pipeline.settings import PruningSettings
from pruner.progress import Track
from pruner.ranks import ALONE, Ranks
from pruner.selection import most
from pruner.surgery import remove

Measure = Callable[[PreTrainedModel], float]

STEPS = 10
"""Halvings of the interval in which the ratio lies: to a thousandth."""


def macs(model: PreTrainedModel) -> float:
    """Multiply-accumulates for each token of a pass."""
    return measure_size(model.to("meta")).macs_per_token


def latency(model: PreTrainedModel) -> float:
    """Seconds for each token generated, on the machine's fastest device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    filled = model._apply(
        lambda value: torch.zeros_like(value, device=device) if value.is_meta else value.to(device)
    )
    return measure_speed(filled).decode_seconds


MEASURES: Mapping[str, Measure] = {"target_macs": macs, "target_latency": latency}
"""Target of a budget -> what it limits, of a model whose weights are on the meta device."""


def settled(
    model: PreTrainedModel,
    dense: Dense,
    settings: PruningSettings,
    track: Track,
    ranks: Ranks = ALONE,
    measures: Mapping[str, Measure] = MEASURES,
) -> PruningSettings:
    """The settings with a ratio in the place of a target that has to be measured.

    Args:
        model: dense; only its shapes are looked at.
        dense: of it, with the layers that will go whole.
        settings: as given.
        track: sees the measurements go by.
        ranks: the processes that prune together; the first one's measurement counts.
        measures: by the budget's target.

    Raises:
        ValueError: no ratio that the settings allow comes down to the target; says how low they come.
    """
    for name, measure in measures.items():
        target = getattr(settings.budget, name)
        if target is not None:
            ratio = smallest_ratio(model, dense, settings, track, name, measure, ranks)
            return replace(settings, budget=by_ratio(settings.budget, ratio))
    return settings


def smallest_ratio(
    model: PreTrainedModel,
    dense: Dense,
    settings: PruningSettings,
    track: Track,
    name: str,
    measure: Measure,
    ranks: Ranks,
) -> float:
    """The smallest ratio that takes `measure` down to the budget's target `name`, to a thousandth."""
    target, groups = getattr(settings.budget, name), dense.prunable(settings)
    layers, enough, least = dense.structure.layers, None, float("inf")
    gone = decoder_parameters(dense.shapes, [layers[number] for number in dense.dropped])
    too_little = gone / decoder_parameters(dense.shapes, layers)
    too_much = too_little + most(groups, dense.shapes, layers, settings.budget)
    for _ in track(range(STEPS), f"budget.{name}", STEPS):
        ratio = (too_little + too_much) / 2
        smaller = without(model, dense, groups, by_ratio(settings.budget, ratio))
        found = ranks.hear(measure(smaller), model.device)
        least = min(least, found)
        if found <= target:
            enough = too_much = ratio
        else:
            too_little = ratio
    if enough is None:
        raise ValueError(
            f"budget.{name} {target:,} is beyond reach: the least is about {least:,.6g}; protect fewer layers"
        )
    return enough


def by_ratio(budget: Budget, ratio: float) -> Budget:
    """The budget with a ratio in the place of what has to be measured."""
    return replace(budget, ratio=ratio, target_macs=None, target_latency=None)


def without(model: PreTrainedModel, dense: Dense, groups: Sequence[Group], budget: Budget) -> PreTrainedModel:
    """The model in the widths that a budget leads to, on the meta device but for its buffers."""
    memo = {id(weight): nn.Parameter(weight.detach().to("meta"), False) for weight in model.parameters()}
    smaller = copy.deepcopy(model, memo)
    removed = dense.allocate(groups, budget)
    kept = {
        group.name: range(removed[group.name], group.num_units) for group in groups if group.name in removed
    }
    remove(smaller, dense.structure.groups, {**kept, **dense.kept_layers})
    return smaller
