"""Groups that may lose units, and by which numbers: whole steps, in step with one another where asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pruner.budget import Budget
from pruner.groups import Group, Shapes, unit_parameters


@dataclass(frozen=True, slots=True)
class Candidate:
    """Groups that lose units in step with one another; mostly one group.

    Attributes:
        groups: like groups, as many units going from each.
        saves: parameters that one unit of each takes along.
        counts: the numbers of removed units that are allowed, ascending from 0.
    """

    groups: tuple[Group, ...]
    saves: int
    counts: tuple[int, ...]

    @property
    def num_units(self) -> int:
        """Units of each group."""
        return self.groups[0].num_units

    def floor(self, removed: float) -> int:
        """The largest allowed number up to `removed`."""
        return max(count for count in self.counts if count <= removed)

    def after(self, removed: int) -> int | None:
        """The allowed number that follows, None at the end."""
        return next((count for count in self.counts if count > removed), None)


def candidates_of(groups: Sequence[Group], shapes: Shapes, budget: Budget, alike: bool) -> list[Candidate]:
    """One for each group; where layers stay alike, one for all the groups of a kind and size."""
    rows: dict[object, list[Group]] = {}
    for group in groups:
        rows.setdefault((group.kind, group.num_units) if alike else group.name, []).append(group)
    return [candidate_of(row, shapes, budget) for row in rows.values()]


def candidate_of(groups: Sequence[Group], shapes: Shapes, budget: Budget) -> Candidate:
    """At least one unit, or one whole step, stays in every group.

    Raises:
        ValueError: as many GPUs as asked for cannot share the group.
    """
    kind, width = groups[0].kind, groups[0].num_units
    step = step_of(kind, budget, max(2**power for power in range(7) if 2**power <= max(1, width // 100)))
    if budget.tensor_parallel > 1 and width % budget.tensor_parallel:
        raise ValueError(
            f"{groups[0].name} has {width} units, which {budget.tensor_parallel} GPUs cannot share evenly; "
            "set budget.tensor_parallel to a divisor"
        )
    counts = (0, *range(width % step or step, width - min(step, width) + 1, step))
    return Candidate(tuple(groups), sum(unit_parameters(shapes, group) for group in groups), counts)


def step_of(kind: str, budget: Budget, unasked: int) -> int:
    """What the units that stay of a kind are a multiple of; `unasked` channels where no rounding is given."""
    return math.lcm((budget.round_to or unasked) if kind == "mlp" else 1, budget.tensor_parallel)


def available(candidates: Sequence[Candidate]) -> int:
    """Parameters that all of them can give together."""
    return sum(candidate.saves * candidate.counts[-1] for candidate in candidates)


def saved(candidates: Sequence[Candidate], removed: Sequence[int]) -> int:
    """Parameters that go with so many units of each."""
    return sum(candidate.saves * count for candidate, count in zip(candidates, removed))
