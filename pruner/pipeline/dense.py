"""What the dense model was: remembered while it is cut, and written into the plan."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from pruner.budget import Budget, decoder_parameters, inside
from pruner.calibration import CalibrationData
from pruner.discovery import Structure
from pruner.groups import Group, Kept, Shapes, count_parameters, shapes_of
from pruner.pipeline.settings import PruningSettings
from pruner.plan import GroupPlan, PruningPlan, structure_fingerprint
from pruner.selection import Granularity, allocate, check_apart, check_met, prunable


@dataclass(frozen=True, slots=True)
class Dense:
    """The dense model's names and numbers.

    Attributes:
        architecture: name of its class.
        shapes: parameter name -> shape.
        structure: its groups and layers.
        dropped: numbers of the decoder layers that go whole.
    """

    architecture: str
    shapes: Shapes
    structure: Structure
    dropped: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, structure: Structure) -> "Dense":
        """Take the model's measure."""
        return cls(type(model).__name__, shapes_of(model), structure)

    @property
    def fingerprint(self) -> str:
        """Changes with any parameter's name or shape."""
        return structure_fingerprint(self.architecture, self.shapes)

    def allocate(
        self,
        groups: Sequence[Group],
        budget: Budget,
        granularity: Granularity = "block",
        scores: Mapping[str, Tensor] | None = None,
    ) -> dict[str, int]:
        """How many units each of `groups` loses; see `pruner.selection.allocate`."""
        if self.dropped and not groups:
            return {}
        layers = self.structure.layers
        return allocate(groups, self.shapes, layers, budget, granularity, scores, self.dropped)

    def check_met(self, groups: Sequence[Group], budget: Budget) -> None:
        """Raise ValueError where the budget cannot be met; one that has to be measured is met where it is."""
        if groups and not budget.is_measured:
            check_met(groups, self.shapes, self.structure.layers, budget, self.dropped)

    def prunable(self, settings: PruningSettings) -> list[Group]:
        """The groups that may lose units, in layers that stay.

        Raises:
            ValueError: some are to, and there are none, all the layers that may lose anything go whole, or a
                unit of one is part of a unit of another.
        """
        found = prunable(self.structure, settings.kinds, settings.protect_first, settings.protect_last)
        if settings.kinds and not any(group.kind in settings.kinds for group in self.structure.groups):
            there = sorted({group.kind for group in self.structure.groups if group.layer is not None})
            raise ValueError(
                f"no decoder layer has units of {' or '.join(settings.kinds)}; kinds that this model has are "
                f"{', '.join(there)}"
            )
        check_apart(found)
        groups = [group for group in found if group.layer not in self.dropped]
        if self.dropped and settings.kinds and not groups:
            raise ValueError(
                f"the {len(self.dropped)} layers of budget.layers leave none unprotected whose widths could "
                "give the rest of the budget; protect fewer, or set kinds to [], to remove layers alone"
            )
        return groups

    @property
    def layer_group(self) -> Group:
        """The group of the decoder layers.

        Raises:
            ValueError: they cannot go one by one; says why.
        """
        for group in self.structure.groups:
            if group.kind == "layer":
                return group
        why = [each.reason for each in self.structure.refused if each.name == "layers"]
        raise ValueError(f"budget.layers: the decoder layers cannot be removed, as {', '.join(why)}")

    @property
    def kept_layers(self) -> dict[str, tuple[int, ...]]:
        """The layers that stay, by the name of their group; nothing where none goes."""
        if not self.dropped:
            return {}
        group = self.layer_group
        return {group.name: tuple(n for n in range(group.num_units) if n not in self.dropped)}

    def plan(
        self,
        settings: PruningSettings,
        kept: Kept,
        scores: Mapping[str, Tensor],
        data: CalibrationData | None,
    ) -> PruningPlan:
        """What was decided, with its reasons.

        Args:
            settings: what was asked.
            kept: group name -> surviving units, for the groups that could lose any.
            scores: group name -> (num_units,), where there are any.
            data: the calibration text, None if none was read.
        """
        groups = [group for group in self.structure.groups if group.name in kept]
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
                _readable(scores.get(group.name)),
            )
            for group in groups
        }
        refit = settings.compensation
        text = {} if data is None else dataclasses.asdict(settings.calibration)
        plan = PruningPlan(
            model={
                "architecture": self.architecture,
                "fingerprint": self.fingerprint,
                "decoder_parameters": decoder,
                "parameters": whole,
                "num_layers": len(self.structure.layers),
            },
            groups=shares,
            criterion=settings.criterion,
            budget={
                **dataclasses.asdict(settings.budget),
                "ratio": settings.budget.share if settings.kinds else None,
                "reached_ratio": 1 - rest_of_decoder / decoder,
                "reached_ratio_of_all": 1 - rest / whole,
                "parameters": rest,
            },
            calibration={} if data is None else {**text, "fingerprint": data.fingerprint},
            compensation={}
            if data is None or not refit
            else dataclasses.asdict(replace(refit, streams=None)),
        )
        return plan if plan.narrows else replace(plan, compensation={})


def _readable(scores: Tensor | None) -> tuple[float, ...] | None:
    """Scores to five digits."""
    return None if scores is None else tuple(float(f"{score:.5g}") for score in scores.tolist())
