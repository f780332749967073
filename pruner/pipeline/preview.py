"""What a budget would leave of a model: its widths without its weights."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pruner.checkpoint import load_config
from pruner.discovery import discover
from pruner.pipeline.dense import Dense
from pruner.pipeline.depth import layers_to_go
from pruner.pipeline.measured import reached, settled
from pruner.pipeline.settings import PruningSettings, searched
from pruner.plan import PruningPlan
from pruner.progress import Track, silent
from pruner.selection import lowest
from pruner.surgery import remove

log = logging.getLogger(__name__)


def preview(
    model: str,
    settings: PruningSettings,
    scored: PruningPlan | None = None,
    trust_remote_code: bool = False,
    track: Track = silent,
) -> PruningPlan:
    """The plan that `settings` would lead to, as far as widths go; only the model's configuration is read.

    Args:
        model: a model folder or hub name.
        settings: what to remove.
        scored: an earlier plan for the model, whose scores choose the units (the threshold too, where
            granularity is "global"); without it, and in groups that it has no scores for, the first units
            stay, in place of whichever.
        trust_remote_code: run modelling code that comes with the model.
        track: sees measurements go by, where the budget asks for any.

    Raises:
        ValueError: the budget cannot be reached, `scored` is of another model, or has no scores where a
            threshold compares them.
    """
    config = load_config(model, trust_remote_code=trust_remote_code, weights=False)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    whole = Dense.of(empty, discover(empty, kinds=searched(layers=settings.budget.layers > 0)))
    scores = {} if scored is None else scores_of(scored, whole)
    dense = replace(whole, dropped=layers_to_go(whole, settings, scores))
    groups = dense.prunable(settings)
    dense.check_met(groups, settings.budget)
    missing = [group.name for group in groups if scored is not None and group.name not in scores]
    if missing and settings.granularity == "global":
        raise ValueError(
            f"the plan has no scores for {missing[0]!r} ({len(missing)} such groups): make one that prunes "
            "these layers and kinds by a criterion that scores"
        )
    asked = settled(empty, dense, settings, track)
    removed = dense.allocate(groups, asked.budget, settings.granularity, scores or None)
    unseen = [name for name in missing if removed[name]]
    if unseen:
        log.warning(
            "the plan scores nothing in %d groups that would lose units, such as %s: how many go is "
            "foreseen, not which",
            len(unseen),
            unseen[0],
        )
    kept = {
        group.name: lowest(scores[group.name], removed[group.name])
        if group.name in scores
        else tuple(range(group.num_units - removed[group.name]))
        for group in groups
    }
    kept = {**kept, **dense.kept_layers}
    criterion = "widths alone" if scored is None else scored.criterion
    plan = replace(dense.plan(settings, kept, scores, None), criterion=criterion)
    if not settings.budget.is_measured:
        return plan
    remove(empty, dense.structure.groups, kept)
    return plan.with_budget(reached(empty, settings.budget))


def scores_of(plan: PruningPlan, dense: Dense) -> Mapping[str, Tensor]:
    """Group name -> (num_units,) scores of a plan that fits the model."""
    plan.check(dense.structure.groups, dense.fingerprint)
    return {
        name: torch.tensor(share.scores) for name, share in plan.groups.items() if share.scores is not None
    }
