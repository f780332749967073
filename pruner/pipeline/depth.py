"""Whole decoder layers: which of them go, and the model without them meanwhile."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from pruner.bypass import bypassed, bypasses
from pruner.calibration import CalibrationData
from pruner.importance.layers import check_number, least_missed
from pruner.pipeline.dense import Dense
from pruner.pipeline.measured import check_reach
from pruner.pipeline.settings import PruningSettings
from pruner.progress import Track
from pruner.ranks import Ranks


def choose_layers(
    model: PreTrainedModel,
    dense: Dense,
    settings: PruningSettings,
    data: CalibrationData | None,
    track: Track,
    ranks: Ranks,
) -> tuple[Dense, dict[str, Tensor]]:
    """Decide which decoder layers are to go whole, and what the loss says to each; none goes yet.

    Raises:
        ValueError: that many cannot, or widths cannot give what these leave to them; nothing was measured.
    """
    if not settings.budget.layers or data is None:
        return dense, {}
    some = replace(dense, dropped=layers_to_go(dense, settings, {}))
    some.check_met(some.prunable(settings), settings.budget)
    check_reach(model, some, settings, ranks)
    group = dense.layer_group
    candidates = settings.unprotected(group.num_units)
    gone, rises = least_missed(
        model, group, settings.budget.layers, candidates, data.input_ids, track=track, ranks=ranks
    )
    return replace(dense, dropped=gone), {group.name: rises}


def layers_to_go(dense: Dense, settings: PruningSettings, scores: Mapping[str, Tensor]) -> tuple[int, ...]:
    """As many decoder layers as asked for: of the lowest scores, or the last of those that may go.

    Raises:
        ValueError: not so many may go.
    """
    number = settings.budget.layers
    if not number:
        return ()
    group = dense.layer_group
    candidates = list(settings.unprotected(group.num_units))
    check_number(number, group, candidates)
    if group.name in scores:
        candidates.sort(key=lambda layer: -scores[group.name][layer].item())
    return tuple(sorted(candidates[-number:]))


@contextmanager
def without_layers(model: PreTrainedModel, dense: Dense, data: CalibrationData | None) -> Iterator[None]:
    """Meanwhile the model runs as if those that are to go were gone."""
    if not dense.dropped or data is None:
        yield
        return
    names = [dense.structure.layers[number] for number in dense.dropped]
    with bypassed(model, bypasses(model, names, data.input_ids[:1].to(model.device))):
        yield
