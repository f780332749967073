"""What the dense model was: remembered while it is cut, and written into the plan."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pruner.calibration import CalibrationData
from pruner.discovery import Structure
from pruner.groups import Group, Kept, Shapes, count_parameters, shapes_of
from pruner.pipeline.settings import PruningSettings
from pruner.plan import GroupPlan, PruningPlan, structure_fingerprint
from pruner.selection import decoder_parameters, inside


@dataclass(frozen=True, slots=True)
class Dense:
    """The dense model's names and numbers.

    Attributes:
        architecture: name of its class.
        shapes: parameter name -> shape.
        structure: its groups and layers.
    """

    architecture: str
    shapes: Shapes
    structure: Structure

    @classmethod
    def of(cls, model: nn.Module, structure: Structure) -> "Dense":
        """Take the model's measure."""
        return cls(type(model).__name__, shapes_of(model), structure)

    @property
    def fingerprint(self) -> str:
        """Changes with any parameter's name or shape."""
        return structure_fingerprint(self.architecture, self.shapes)

    def plan(
        self,
        settings: PruningSettings,
        groups: Sequence[Group],
        kept: Kept,
        scores: Mapping[str, Tensor],
        data: CalibrationData | None,
        compensation: Mapping[str, Any] | None = None,
    ) -> PruningPlan:
        """What was decided for `groups`, with its reasons.

        Args:
            settings: what was asked.
            groups: those that could lose units.
            kept: group name -> surviving units.
            scores: group name -> (num_units,).
            data: the calibration text, None if none was read.
            compensation: the update of the weights that follows, None for none.
        """
        whole = count_parameters(self.shapes, [], {})
        decoder = decoder_parameters(self.shapes, self.structure.layers)
        rest = count_parameters(self.shapes, groups, kept)
        rest_of_decoder = count_parameters(inside(self.shapes, self.structure.layers), groups, kept)
        shares = {
            group.name: GroupPlan(
                group.kind,
                group.layer,
                group.num_units,
                tuple(int(unit) for unit in kept[group.name]),
                tuple(float(f"{score:.5g}") for score in scores[group.name].tolist()),
            )
            for group in groups
        }
        text = {} if data is None else dataclasses.asdict(settings.calibration)
        return PruningPlan(
            model={
                "architecture": self.architecture,
                "fingerprint": self.fingerprint,
                "decoder_parameters": decoder,
                "parameters": whole,
            },
            groups=shares,
            criterion=settings.criterion,
            budget={
                **dataclasses.asdict(settings.budget),
                "reached_ratio": 1 - rest_of_decoder / decoder,
                "reached_ratio_of_all": 1 - rest / whole,
                "parameters": rest,
            },
            calibration={} if data is None else {**text, "fingerprint": data.fingerprint},
            compensation=compensation or {},
        )
