"""Budgets stated in what a model costs to run: the ratio at which it has come down to that."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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
from pruner.selection import EXACT, most
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
        ValueError: no ratio that the settings allow comes down to the target, and how low they come, or the
            model is there already.
    """
    for name, measure in measures.items():
        if getattr(settings.budget, name) is not None:
            trial = Trial(model, dense, dense.prunable(settings), settings.budget, name, measure, ranks)
            return replace(settings, budget=by_ratio(settings.budget, trial.smallest_ratio(track)))
    return settings


def reached(
    model: PreTrainedModel, budget: Budget, ranks: Ranks = ALONE, measures: Mapping[str, Measure] = MEASURES
) -> dict[str, float]:
    """What a pruned model needs in the terms of its budget's target: {"macs": ...}, {"latency": ...}, or {}.

    Args:
        model: only its shapes are looked at.
        budget: as given, before it was `settled`.
        ranks: the processes that prune together; the first one's measurement counts.
        measures: by the budget's target.
    """
    asked = [name for name in measures if getattr(budget, name) is not None]
    return {
        name.removeprefix("target_"): ranks.hear(measures[name](without_weights(model)), model.device)
        for name in asked
    }


def check_reach(
    model: PreTrainedModel,
    dense: Dense,
    settings: PruningSettings,
    ranks: Ranks = ALONE,
    measures: Mapping[str, Measure] = MEASURES,
) -> None:
    """Raise ValueError where a target that has to be measured is beyond reach; see `settled`."""
    for name, measure in measures.items():
        if getattr(settings.budget, name) is not None:
            Trial(model, dense, dense.prunable(settings), settings.budget, name, measure, ranks).check_reach()


@dataclass(frozen=True, slots=True)
class Trial:
    """Smaller models on trial for one target of a budget; see `settled`."""

    model: PreTrainedModel
    dense: Dense
    groups: Sequence[Group]
    budget: Budget
    name: str
    measure: Measure
    ranks: Ranks

    @property
    def bounds(self) -> tuple[float, float]:
        """The ratios between which widths can decide: of the layers that go alone, and the most of all."""
        layers, shapes = self.dense.structure.layers, self.dense.shapes
        gone = decoder_parameters(shapes, [layers[number] for number in self.dense.dropped])
        least = gone / decoder_parameters(shapes, layers)
        most_of_all = most(self.groups, shapes, layers, self.budget)
        return least, (least + most_of_all) * (1 - EXACT)

    @property
    def target(self) -> float:
        """What the measure may be."""
        target: float = getattr(self.budget, self.name)
        return target

    def at(self, ratio: float) -> float:
        """The measure of the model in the widths that a ratio leads to, the same on every process."""
        smaller = without(self.model, self.dense, self.groups, by_ratio(self.budget, ratio))
        return self.ranks.hear(self.measure(smaller), self.model.device)

    def check_reach(self) -> None:
        """Raise ValueError where even the most that may go does not come down to the target."""
        least = self.at(self.bounds[1])
        if least > self.target:
            raise ValueError(
                f"budget.{self.name} {self.target:,} is beyond reach: the least is about {said(least)}; "
                "protect fewer layers"
            )

    def smallest_ratio(self, track: Track) -> float:
        """The smallest ratio that comes down to the target, to a thousandth."""
        too_little, enough = self.bounds
        whole = self.at(too_little)
        if whole <= self.target and not self.dense.dropped:
            raise ValueError(
                f"budget.{self.name} {self.target:,} is no less than the {said(whole)} that the model needs "
                "as it is; ask for less"
            )
        if whole <= self.target:
            return too_little
        self.check_reach()
        for _ in track(range(STEPS), f"budget.{self.name}", STEPS):
            ratio = (too_little + enough) / 2
            if self.at(ratio) <= self.target:
                enough = ratio
            else:
                too_little = ratio
        return enough


def said(value: float) -> str:
    """Operations in whole numbers, seconds to four digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def by_ratio(budget: Budget, ratio: float) -> Budget:
    """The budget with a ratio in the place of what has to be measured."""
    return replace(budget, ratio=ratio, target_macs=None, target_latency=None)


def without(model: PreTrainedModel, dense: Dense, groups: Sequence[Group], budget: Budget) -> PreTrainedModel:
    """The model in the widths that a budget leads to, on the meta device but for its buffers."""
    smaller = without_weights(model)
    removed = dense.allocate(groups, budget)
    kept = {
        group.name: range(removed[group.name], group.num_units) for group in groups if group.name in removed
    }
    remove(smaller, dense.structure.groups, {**kept, **dense.kept_layers})
    return smaller


def without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy on the meta device but for its buffers."""
    memo = {id(weight): nn.Parameter(weight.detach().to("meta"), False) for weight in model.parameters()}
    return copy.deepcopy(model, memo)
