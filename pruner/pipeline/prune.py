"""prune(): discover, estimate, select, remove, in order."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.calibration import load_calibration
from pruner.discovery import discover
from pruner.importance import NEED_NO_TEXT, estimate_importance
from pruner.pipeline.dense import Dense
from pruner.pipeline.settings import PruningSettings
from pruner.plan import PruningPlan
from pruner.progress import Track, silent
from pruner.selection import allocate, lowest, prunable
from pruner.surgery import remove


def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: PruningSettings,
    track: Track = silent,
) -> PruningPlan:
    """Cut the model in place and say what was cut.

    Args:
        model: dense; afterwards pruned.
        tokenizer: for the calibration text.
        settings: what to remove.
        track: sees the work go by.

    Returns:
        The plan; with the dense model it gives the pruned one again.

    Raises:
        ValueError: settings, text and model do not fit one another; the model is untouched.
    """
    if settings.plan is not None:
        return replay(model, PruningPlan.load(settings.plan))
    needs_text = settings.criterion not in NEED_NO_TEXT
    data = load_calibration(settings.calibration, tokenizer) if needs_text else None
    dense = Dense.of(model, discover(model))
    groups = prunable(dense.structure, settings.kinds, settings.protect_first, settings.protect_last)
    allocate(groups, dense.shapes, dense.structure.layers, settings.budget)
    scores = estimate_importance(
        model,
        groups,
        data.input_ids if data else None,
        settings.criterion,
        settings.reduction,
        seed=settings.calibration.seed,
        track=track,
    )
    removed = allocate(
        groups, dense.shapes, dense.structure.layers, settings.budget, settings.granularity, scores
    )
    kept = {group.name: lowest(scores[group.name], removed[group.name]) for group in groups}
    plan = dense.plan(settings, groups, kept, scores, data)
    remove(model, groups, kept)
    return plan


def replay(model: PreTrainedModel, plan: PruningPlan) -> PruningPlan:
    """Remove what a plan names; no text is read, nothing is scored.

    Raises:
        ValueError: the plan was made for another model; this one is untouched.
    """
    dense = Dense.of(model, discover(model))
    plan.check(dense.structure.groups, dense.fingerprint)
    remove(model, dense.structure.groups, plan.kept)
    return plan
