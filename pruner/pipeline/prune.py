"""prune(): discover, estimate, select, remove and compensate, in order."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.calibration import CalibrationData, draw_samples
from pruner.compensation.least_squares import optimum
from pruner.discovery import discover
from pruner.discovery.admission import check_weights
from pruner.dispatching import in_main_memory
from pruner.groups import Group, Kept
from pruner.importance import estimate_importance
from pruner.importance.activations import project
from pruner.importance.kronecker import cheapest, gradient_covariances, stride
from pruner.pipeline.dense import Dense
from pruner.pipeline.depth import choose_layers, without_layers
from pruner.pipeline.measured import reached, settled
from pruner.pipeline.refitting import compensate
from pruner.pipeline.replaying import replay
from pruner.pipeline.rounds import prune_in_rounds
from pruner.pipeline.scoring import scored
from pruner.pipeline.settings import PruningSettings, searched
from pruner.pipeline.walk import compress, switches_for
from pruner.plan import PruningPlan
from pruner.progress import Track, silent
from pruner.projections import Projection
from pruner.ranks import ALONE, Ranks
from pruner.selection import lowest
from pruner.surgery import remove
from pruner.visiting import layer_by_layer

Scores = dict[str, Tensor]


def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: PruningSettings,
    track: Track = silent,
    *,
    together: bool = False,
    visited: torch.device | None = None,
) -> PruningPlan:
    """Cut the model in place and say what was cut.

    Args:
        model: dense; afterwards pruned. One loaded with a `device_map` is brought together in main memory,
            where it stays, and its layers visit the first GPU of the map.
        tokenizer: for the calibration text.
        settings: what to remove.
        track: sees the work go by.
        together: every process of the default group calls this with the same model, and they share the
            samples; the result is on each.
        visited: the decoder layers come to this device one at a time, and the rest of the model moves there;
            None: the model works where it is.

    Returns:
        The plan; with the dense model it gives the pruned one again.

    Raises:
        ValueError: settings, text and model do not fit one another; the model is untouched, but for its map.
    """
    check_weights(model)
    with in_main_memory(model) as gpu:
        visited = visited or gpu
        if settings.plan is not None:
            return replay(model, tokenizer, settings, track, together=together, visited=visited)
        return decide_and_cut(model, tokenizer, settings, track, together=together, visited=visited)


def decide_and_cut(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: PruningSettings,
    track: Track,
    *,
    together: bool,
    visited: torch.device | None,
) -> PruningPlan:
    """Prune by what the model and the text say; see `prune`."""
    whole = Dense.of(model, discover(model, kinds=searched(layers=settings.budget.layers > 0)))
    with_biases = switches_for(model, whole.prunable(settings), settings.compensation)
    with layer_by_layer(model, whole.structure.layers, visited) if visited else nullcontext():
        data = draw_samples(settings.calibration, model, tokenizer, track) if settings.reads_text else None
        ranks = Ranks.of_group(len(data.input_ids)) if together and data is not None else ALONE
        dense, rises = choose_layers(model, whole, settings, data, track, ranks)
        groups = dense.prunable(settings)
        dense.check_met(groups, settings.budget)
        all_ranks = Ranks.of_group() if together else ALONE
        asked = settled(model, dense, settings, track, all_ranks)
        kept, scores = prune_widths(model, dense, groups, asked, data, track, ranks)
    remove(model, dense.structure.groups, dense.kept_layers)
    plan = dense.plan(settings, {**kept, **dense.kept_layers}, {**scores, **rises}, data)
    plan = plan.with_budget(reached(model, settings.budget, all_ranks))
    return with_parameters(plan, model) if with_biases else plan


def with_parameters(plan: PruningPlan, model: PreTrainedModel) -> PruningPlan:
    """The plan with what the model has now: refits have added biases to its decoder."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    added = parameters - plan.budget["parameters"]
    return plan.with_budget(
        {
            "parameters": parameters,
            "reached_ratio": plan.budget["reached_ratio"] - added / plan.model["decoder_parameters"],
            "reached_ratio_of_all": 1 - parameters / plan.model["parameters"],
        }
    )


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
    if settings.criterion == "kronecker":
        return prune_within(model, dense, groups, settings, data, track, ranks)
    if settings.compensation is None:
        with without_layers(model, dense, data):
            return prune_in_rounds(model, dense, groups, settings, data, track, ranks)
    return prune_at_once(model, dense, groups, settings, data, track, ranks)


def prune_at_once(
    model: PreTrainedModel,
    dense: Dense,
    groups: Sequence[Group],
    settings: PruningSettings,
    data: CalibrationData | None,
    track: Track,
    ranks: Ranks,
) -> tuple[Kept, Scores]:
    """Score all units on the dense model, choose, remove and compensate."""
    assert data is not None
    assert settings.compensation is not None
    with without_layers(model, dense, data):
        scores = scored(model, groups, settings, data, track, ranks)
    removed = dense.allocate(groups, settings.budget, settings.granularity, scores)
    kept = {group.name: lowest(scores[group.name], removed[group.name]) for group in groups}
    compensate(model, dense, kept, data.input_ids, settings.compensation, track, ranks)
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
    with without_layers(model, dense, data):
        removed = allocate_widths(model, dense, groups, settings, data.input_ids, track, ranks)
        losing = [group for group in groups if removed[group.name]]
        if not losing:
            return {group.name: range(group.num_units) for group in groups}, {}
        projections = project(model, losing)
        text = data.input_ids
        every = stride(len(text))
        covariances = gradient_covariances(model, projections, text, track=track, ranks=ranks, every=every)
    scores: Scores = {}
    damping = settings.compensation.damping

    def choose(projection: Projection, gram: Tensor, cross: Tensor, weight: Tensor) -> tuple[int, ...]:
        name = projection.group.name
        best, inverse = optimum(gram, cross, weight, damping)
        index = torch.as_tensor(projection.index, device=weight.device)
        covariance = covariances.pop(name).to(weight.device)
        kept, scores[name] = cheapest(best, inverse, covariance, index, removed[name])
        return kept

    refit = settings.compensation
    chosen = compress(model, dense.structure, losing, text, choose, refit, track, ranks, dense.dropped)
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
