"""The scores that settings ask for."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from pruner.calibration import CalibrationData
from pruner.groups import Group
from pruner.importance import estimate_importance
from pruner.pipeline.settings import PruningSettings
from pruner.progress import Track
from pruner.ranks import Ranks


def scored(
    model: PreTrainedModel,
    groups: Sequence[Group],
    settings: PruningSettings,
    data: CalibrationData | None,
    track: Track,
    ranks: Ranks,
) -> dict[str, Tensor]:
    """Group name -> (num_units,), by the settings' criterion and reduction, on the text if there is one."""
    return estimate_importance(
        model,
        groups,
        None if data is None else data.input_ids,
        settings.criterion,
        settings.reduction,
        seed=settings.calibration.seed,
        track=track,
        ranks=ranks,
    )
