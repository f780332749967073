"""From a budget to widths, and from scores to the units that stay."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pruner.budget import Budget, decoder_parameters
from pruner.discovery import Structure
from pruner.groups import Group, Shapes, unit_parameters

Granularity = Literal["block", "global"]


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


def prunable(structure: Structure, kinds: Sequence[str], first: int, last: int) -> list[Group]:
    """Groups of the given kinds outside the `first` and `last` decoder layers, which are protected."""
    open_layers = range(first, len(structure.layers) - last)
    return [group for group in structure.groups if group.kind in kinds and group.layer in open_layers]


def allocate(
    groups: Sequence[Group],
    shapes: Shapes,
    layers: Sequence[str],
    budget: Budget,
    granularity: Granularity = "block",
    scores: Mapping[str, Tensor] | None = None,
    dropped: Collection[int] = (),
) -> dict[str, int]:
    """How many units every group loses: group name -> number, for all of `groups`.

    "block": each layer gives the same share of what it has (LLM-Pruner's block-wise mode): the whole
    attention units that fit in the share, and MLP channels for the rest. The steps that are missing then
    come from the first layers; unless no layer is protected: then all stay alike.
    "global": the units with the lowest score per parameter saved go, wherever they are.

    Args:
        groups: what may lose units, each of one layer.
        shapes: of the whole dense model.
        layers: names of its decoder layers.
        budget: what is asked.
        granularity: "block" or "global".
        scores: group name -> (num_units,); for "global".
        dropped: decoder layers that go whole and count towards the budget; none of `groups` lies in them.

    Raises:
        ValueError: the budget cannot be reached; says what can.
    """
    if granularity not in get_args(Granularity):
        raise ValueError(f"no granularity {granularity!r}; there are {', '.join(get_args(Granularity))}")
    alike = granularity == "block" and len({group.layer for group in groups}) == len(layers) - len(dropped)
    candidates = _candidates(groups, shapes, budget, alike)
    total = decoder_parameters(shapes, layers)
    asked = budget.asked(shapes, layers)
    if dropped:
        asked -= (whole := decoder_parameters(shapes, [layers[number] for number in dropped]))
        if asked < 0:
            raise ValueError(
                f"the {len(dropped)} layers of budget.layers are {whole / total:.4g} of the decoder, more "
                f"than the {(asked + whole) / total:.4g} that is to go; ask for fewer, or set kinds "
                "to [], to remove layers alone"
            )
    available = _available(candidates)
    if asked > available:
        raise ValueError(
            f"{asked / total:.3g} of the decoder cannot be removed: the {len(groups)} groups that "
            f"may be pruned give at most {available / total:.3f}; protect fewer layers, or ask for less"
        )
    if granularity == "block":
        removed = _block(candidates, asked)
    elif scores is None:
        raise ValueError("granularity 'global' compares scores; choose a criterion that gives them")
    else:
        removed = _global(candidates, asked, scores)
    _check_reached(candidates, removed, asked, total)
    return {group.name: count for candidate, count in zip(candidates, removed) for group in candidate.groups}


def most(groups: Sequence[Group], shapes: Shapes, layers: Sequence[str], budget: Budget) -> float:
    """The largest share of the decoder that can be taken from `groups`."""
    return _available(_candidates(groups, shapes, budget, alike=False)) / decoder_parameters(shapes, layers)


def _available(candidates: Sequence[Candidate]) -> int:
    return sum(candidate.saves * candidate.counts[-1] for candidate in candidates)


def _check_reached(candidates: Sequence[Candidate], removed: Sequence[int], asked: float, total: int) -> None:
    """Raise ValueError where even the finest step comes no nearer to what was asked than a tenth of it."""
    reached = _saved(candidates, removed)
    step = min(candidate.saves * (candidate.after(0) or candidate.num_units) for candidate in candidates)
    away = abs(reached - asked)
    if away <= 0.1 * asked or step <= away:
        return
    other = reached + (step if reached < asked else -step)
    nearest = " and ".join(f"{math.floor(1e4 * share / total) / 1e4}" for share in sorted((reached, other)))
    raise ValueError(
        f"{asked / total:.4g} of the decoder cannot be met in whole units and multiples of budget.round_to; "
        f"the nearest are {nearest}: ask for one of them, lower budget.round_to, or let more kinds go"
    )


def lowest(scores: Tensor, num_removed: int) -> tuple[int, ...]:
    """The units that stay, ascending, when the `num_removed` of lowest score go; of equals the first."""
    order = torch.argsort(scores, stable=True)
    return tuple(sorted(int(unit) for unit in order[num_removed:]))


def _candidates(groups: Sequence[Group], shapes: Shapes, budget: Budget, alike: bool) -> list[Candidate]:
    """One for each group; where layers stay alike, one for all the groups of a kind and size."""
    rows: dict[object, list[Group]] = {}
    for group in groups:
        rows.setdefault((group.kind, group.num_units) if alike else group.name, []).append(group)
    return [_candidate(row, shapes, budget) for row in rows.values()]


def _candidate(groups: Sequence[Group], shapes: Shapes, budget: Budget) -> Candidate:
    """At least one unit, or one whole step, stays in every group.

    Raises:
        ValueError: as many GPUs as asked for cannot share the group.
    """
    kind, width = groups[0].kind, groups[0].num_units
    step = 1
    if kind == "mlp":
        step = budget.round_to or max(2**power for power in range(7) if 2**power <= max(1, width // 100))
    step = math.lcm(step, budget.tensor_parallel)
    if budget.tensor_parallel > 1 and width % budget.tensor_parallel:
        raise ValueError(
            f"{groups[0].name} has {width} units, which {budget.tensor_parallel} GPUs cannot share evenly; "
            "set budget.tensor_parallel to a divisor"
        )
    counts = (0, *range(width % step or step, width - min(step, width) + 1, step))
    return Candidate(tuple(groups), sum(unit_parameters(shapes, group) for group in groups), counts)


def _block(candidates: Sequence[Candidate], asked: float) -> list[int]:
    """Equal shares: coarse groups give the whole units that fit, the finest of each layer the rest."""
    finest: dict[int | None, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: c.saves * (c.after(0) or 0), reverse=True):
        finest[candidate.groups[0].layer] = candidate
    fine = [candidate in finest.values() for candidate in candidates]
    share = asked / max(1, sum(c.saves * c.num_units for c in candidates))
    removed = [0 if is_fine else c.floor(share * c.num_units) for c, is_fine in zip(candidates, fine)]
    left = asked - _saved(candidates, removed)
    share = left / max(1, sum(c.saves * c.num_units for c, is_fine in zip(candidates, fine) if is_fine))
    for i, candidate in enumerate(candidates):
        removed[i] = candidate.floor(share * candidate.num_units) if fine[i] else removed[i]
    _fill(candidates, removed, asked, [i for i, is_fine in enumerate(fine) if is_fine])
    _fill(candidates, removed, asked, range(len(candidates)))
    return removed


def _fill(candidates: Sequence[Candidate], removed: list[int], asked: float, allowed: Sequence[int]) -> None:
    """Remove step after step, evenly, while that brings the saved parameters nearer to `asked`."""
    while True:
        steps = [(i, after) for i in allowed if (after := candidates[i].after(removed[i])) is not None]
        if not steps:
            return
        i, after = min(steps, key=lambda step: (step[1] / candidates[step[0]].num_units, step[0]))
        more = candidates[i].saves * (after - removed[i])
        if more >= 2 * (asked - _saved(candidates, removed)):
            return
        removed[i] = after


def _global(candidates: Sequence[Candidate], asked: float, scores: Mapping[str, Tensor]) -> list[int]:
    """One threshold on the score per parameter saved, over the steps of all groups."""
    steps = []
    for i, candidate in enumerate(candidates):
        ordered = scores[candidate.groups[0].name].double().sort().values.cumsum(0)
        cost = [0.0, *ordered.tolist()]
        for before, after in zip(candidate.counts, candidate.counts[1:]):
            steps.append(((cost[after] - cost[before]) / (candidate.saves * (after - before)), i, after))
    removed = [0] * len(candidates)
    missing = asked
    for _, i, after in sorted(steps):
        more = candidates[i].saves * (after - removed[i])
        if more < 2 * missing:
            missing -= more
            removed[i] = after
        else:
            break
    return removed


def _saved(candidates: Sequence[Candidate], removed: Sequence[int]) -> int:
    return sum(candidate.saves * count for candidate, count in zip(candidates, removed))
