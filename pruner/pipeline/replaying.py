"""A plan, carried out again."""

import logging
from contextlib import nullcontext
from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.calibration import draw_samples
from pruner.compensation import Compensation
from pruner.discovery import discover
from pruner.pipeline.dense import Dense
from pruner.pipeline.refitting import compensate
from pruner.pipeline.settings import PruningSettings, searched
from pruner.plan import PruningPlan
from pruner.progress import Track, silent
from pruner.ranks import ALONE, Ranks
from pruner.surgery import remove
from pruner.visiting import layer_by_layer

log = logging.getLogger(__name__)


def replay(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: PruningSettings,
    track: Track = silent,
    *,
    together: bool = False,
    visited: torch.device | None = None,
) -> PruningPlan:
    """Remove what a plan names; compensate only if its calibration text is given again; see `prune`.

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
    before = {"epochs": 0, "divergence": 1.0}  # what plans that do not say were made with
    refit = Compensation(**{**before, **plan.compensation, "streams": streams})
    ranks = Ranks.of_group(len(data.input_ids)) if together else ALONE
    dense = replace(whole, dropped=plan.dropped)
    with layer_by_layer(model, whole.structure.layers, visited) if visited else nullcontext():
        compensate(model, dense, plan.kept, data.input_ids, refit, track, ranks)
    remove(model, dense.structure.groups, dense.kept_layers)
    return plan
