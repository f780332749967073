"""prune(): discover, estimate, select, remove and compensate, in order."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.calibration import CalibrationData, draw_samples
from pruner.compensation import Compensation
from pruner.compensation.least_squares import Moments, optimum
from pruner.discovery import discover
from pruner.groups import Group, Kept
from pruner.importance import estimate_importance
from pruner.importance.activations import project
from pruner.importance.kronecker import cheapest, gradient_covariances
from pruner.pipeline.dense import Dense
from pruner.pipeline.depth import choose_layers, without_layers
from pruner.pipeline.measured import settled
from pruner.pipeline.settings import PruningSettings, searched
from pruner.pipeline.walk import compress
from pruner.plan import PruningPlan
from pruner.progress import Track, silent
from pruner.projections import Projection
from pruner.ranks import ALONE, Ranks
from pruner.selection import lowest
from pruner.surgery import remove

log = logging.getLogger(__name__)

Scores = dict[str, Tensor]


def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: PruningSettings,
    track: Track = silent,
    *,
    together: bool = False,
) -> PruningPlan:
    """Cut the model in place and say what was cut.

    Args:
        model: dense; afterwards pruned.
        tokenizer: for the calibration text.
        settings: what to remove.
        track: sees the work go by.
        together: every process of the default group calls this with the same model, and they share the
            samples; the result is on each.

    Returns:
        The plan; with the dense model it gives the pruned one again.

    Raises:
        ValueError: settings, text and model do not fit one another; the model is untouched.
    """
    if settings.plan is not None:
        return replay(model, tokenizer, settings, track, together=together)
    data = draw_samples(settings.calibration, model, tokenizer, track) if settings.reads_text else None
    ranks = shared_by(data, together)
    whole = Dense.of(model, discover(model, kinds=searched(layers=settings.budget.layers > 0)))
    dense, rises = choose_layers(model, whole, settings, data, track, ranks)
    groups, asked = dense.prunable(settings), settled(model, dense, settings, track)
    dense.allocate(groups, asked.budget)
    with without_layers(model, dense, data):
        kept, scores = prune_widths(model, dense, groups, asked, data, track, ranks)
    remove(model, dense.structure.groups, dense.kept_layers)
    return dense.plan(settings, {**kept, **dense.kept_layers}, {**scores, **rises}, data)


def prune_widths(
    model: PreTrainedModel,
    dense: Dense,
    groups: Sequence[Group],
    settings: PruningSettings,
    data: CalibrationData | None,
    track: Track,
    ranks: Ranks,
) -> tuple[Kept, Scores]:
    """Take units from `groups`: chosen on the dense model, or layer by layer, as the criterion wants."""
    if not groups:
        return {}, {}
    way = prune_within if settings.criterion == "kronecker" else prune_after
    return way(model, dense, groups, settings, data, track, ranks)


def shared_by(data: CalibrationData | None, together: bool) -> Ranks:
    """The processes that share the samples."""
    return Ranks.of_group(len(data.input_ids)) if together and data is not None else ALONE


def prune_after(
    model: PreTrainedModel,
    dense: Dense,
    groups: Sequence[Group],
    settings: PruningSettings,
    data: CalibrationData | None,
    track: Track,
    ranks: Ranks,
) -> tuple[Kept, Scores]:
    """Score all units on the dense model, choose, then remove; compensate if asked."""
    input_ids = None if data is None else data.input_ids
    seed = settings.calibration.seed
    scores = estimate_importance(
        model, groups, input_ids, settings.criterion, settings.reduction, seed=seed, track=track, ranks=ranks
    )
    removed = dense.allocate(groups, settings.budget, settings.granularity, scores)
    kept = {group.name: lowest(scores[group.name], removed[group.name]) for group in groups}
    if settings.compensation is None or input_ids is None:
        remove(model, groups, kept)
    else:
        compensate(model, dense, kept, input_ids, settings.compensation, track, ranks)
    return kept, scores


def prune_within(
    model: PreTrainedModel,
    dense: Dense,
    groups: Sequence[Group],
    settings: PruningSettings,
    data: CalibrationData | None,
    track: Track,
    ranks: Ranks,
) -> tuple[Kept, Scores]:
    """Choose each layer's units when the walk comes by, by what their removal costs after the refit."""
    assert data is not None
    assert settings.compensation is not None
    removed = allocate_widths(model, dense, groups, settings, data.input_ids, track, ranks)
    losing = [group for group in groups if removed[group.name]]
    projections = project(model, losing)
    covariances = gradient_covariances(model, projections, data.input_ids, track=track, ranks=ranks)
    scores: Scores = {}
    damping = settings.compensation.damping

    def choose(projection: Projection, moments: Moments, weight: Tensor) -> tuple[int, ...]:
        name = projection.group.name
        best, inverse = optimum(moments, weight, damping)
        index = torch.as_tensor(projection.index, device=weight.device)
        covariance = covariances.pop(name).to(weight.device)
        kept, scores[name] = cheapest(best, inverse, covariance, index, removed[name])
        return kept

    refit, text = settings.compensation, data.input_ids
    chosen = compress(model, dense.structure, losing, text, choose, refit, track, ranks)
    return {group.name: chosen.get(group.name, range(group.num_units)) for group in groups}, scores


def allocate_widths(
    model: PreTrainedModel,
    dense: Dense,
    groups: Sequence[Group],
    settings: PruningSettings,
    input_ids: Tensor,
    track: Track,
    ranks: Ranks,
) -> dict[str, int]:
    """How many units each group loses; a global threshold is set on gate Fisher scores."""
    if settings.granularity == "block":
        return dense.allocate(groups, settings.budget)
    scores = estimate_importance(model, groups, input_ids, "gate_fisher", track=track, ranks=ranks)
    return dense.allocate(groups, settings.budget, settings.granularity, scores)


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
            lambda projection, _moments, _weight: decided[projection.group.name],
            settings,
            track,
            ranks,
        )


def replay(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: PruningSettings,
    track: Track = silent,
    *,
    together: bool = False,
) -> PruningPlan:
    """Remove what a plan names; compensate only if its calibration text is given again.

    Raises:
        ValueError: the plan was made for another model, or the text is another; this model is untouched.
    """
    plan = PruningPlan.load(str(settings.plan))
    whole = Dense.of(model, discover(model, kinds=searched(layers=bool(plan.dropped))))
    plan.check(whole.structure.groups, whole.fingerprint)
    if not (plan.compensation and settings.calibration.path):
        if plan.compensation:
            log.warning(
                "the plan's compensation is left out: it needs its text; give calibration.path for it"
            )
        remove(model, whole.structure.groups, plan.kept)
        return replace(plan, compensation={})
    text = {key: value for key, value in plan.calibration.items() if key not in ("path", "fingerprint")}
    data = draw_samples(replace(settings.calibration, **text), model, tokenizer, track)
    if data.fingerprint != plan.calibration["fingerprint"]:
        raise ValueError(
            f"{settings.calibration.path} gives samples {data.fingerprint}, the plan was made on "
            f"{plan.calibration['fingerprint']}: give that text, or none to leave compensation out"
        )
    streams = settings.compensation.streams if settings.compensation else None
    refit, ranks = Compensation(**{**plan.compensation, "streams": streams}), shared_by(data, together)
    dense = replace(whole, dropped=plan.dropped)
    with without_layers(model, dense, data):
        compensate(model, dense, plan.kept, data.input_ids, refit, track, ranks)
    remove(model, dense.structure.groups, dense.kept_layers)
    return plan
