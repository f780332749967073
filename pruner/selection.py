"""From a budget to widths, and from scores to the units that stay."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from pruner.budget import Budget, decoder_parameters
from pruner.candidates import Candidate, available, candidates_of, saved, step_of
from pruner.discovery import Structure
from pruner.groups import Group, Shapes

Granularity = Literal["block", "global"]

EXACT = 1e-9
"""Share of a decoder up to which two budgets are one."""


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
    A budget of widths says it by itself.

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
    if budget.widths is not None:
        return _beyond(groups, budget.widths, budget)
    alike = granularity == "block" and len({group.layer for group in groups}) == len(layers) - len(dropped)
    candidates = candidates_of(groups, shapes, budget, alike)
    total = decoder_parameters(shapes, layers)
    whole = budget.asked(shapes, layers)
    asked = whole - decoder_parameters(shapes, [layers[number] for number in dropped])
    if asked < -EXACT * total:
        raise ValueError(
            f"the {len(dropped)} layers of budget.layers are {(whole - asked) / total:.4g} of the decoder, "
            f"more than the {whole / total:.4g} that is to go; ask for fewer, or set kinds to [], to remove "
            "layers alone"
        )
    limit = available(candidates)
    if asked > limit:
        raise ValueError(
            f"{asked / total:.3g} of the decoder cannot be removed: the {len(groups)} groups that "
            f"may be pruned give at most {limit / total:.3f}; protect fewer layers, or ask for less"
        )
    if granularity == "block":
        removed = _block(candidates, asked)
    elif scores is None:
        raise ValueError("granularity 'global' compares scores; choose a criterion that gives them")
    else:
        removed = _global(candidates, asked, scores)
    _check_reached(candidates, removed, asked, whole, total)
    return {group.name: count for candidate, count in zip(candidates, removed) for group in candidate.groups}


def _beyond(groups: Sequence[Group], widths: Mapping[str, int], budget: Budget) -> dict[str, int]:
    """The units of every group beyond the width of its kind.

    Raises:
        ValueError: no group of a kind has so many, or what stays is no multiple of what is asked for.
    """
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group.kind] = max(group.num_units, sizes.get(group.kind, 0))
    for kind, width in widths.items():
        if width > sizes.get(kind, 0):
            have = ", ".join(f"{size} of {name}" for name, size in sizes.items()) or "none"
            raise ValueError(
                f"budget.widths keeps {width} units of {kind!r} in each layer; of what may go there are "
                f"at most {have}: ask for fewer, or name another kind"
            )
    kept = {group.name: min(group.num_units, widths.get(group.kind, group.num_units)) for group in groups}
    for group in groups:
        count = kept[group.name]
        step = step_of(group.kind, budget, 1) if count < group.num_units else budget.tensor_parallel
        if count % step:
            raise ValueError(
                f"budget.widths leaves {count} units of {group.name}; budget.round_to and "
                f"budget.tensor_parallel ask for a multiple of {step}: change the one or the others"
            )
    return {group.name: group.num_units - kept[group.name] for group in groups}


def most(groups: Sequence[Group], shapes: Shapes, layers: Sequence[str], budget: Budget) -> float:
    """The largest share of the decoder that can be taken from `groups`."""
    return available(candidates_of(groups, shapes, budget, alike=False)) / decoder_parameters(shapes, layers)


def _check_reached(
    candidates: Sequence[Candidate], removed: Sequence[int], asked: float, whole: float, total: int
) -> None:
    """Raise ValueError where even the finest step comes no nearer to the whole budget than a tenth of it.

    asked: what is left of the whole budget for widths.
    """
    reached = saved(candidates, removed)
    step = min(candidate.saves * (candidate.after(0) or candidate.num_units) for candidate in candidates)
    away = abs(reached - asked)
    if away <= 0.1 * whole or step <= away:
        return
    other = reached + (step if reached < asked else -step)
    shares = sorted((whole - asked + each) / total for each in (reached, other))
    nearest = " and ".join(f"{math.floor(1e4 * share) / 1e4}" for share in shares)
    raise ValueError(
        f"{whole / total:.4g} of the decoder cannot be met in whole units and multiples of budget.round_to; "
        f"the nearest are {nearest}: ask for one of them, lower budget.round_to, or let more kinds go"
    )


def lowest(scores: Tensor, num_removed: int) -> tuple[int, ...]:
    """The units that stay, ascending, when the `num_removed` of lowest score go; of equals the first."""
    order = torch.argsort(scores, stable=True)
    return tuple(sorted(int(unit) for unit in order[num_removed:]))


def _block(candidates: Sequence[Candidate], asked: float) -> list[int]:
    """Equal shares: coarse groups give the whole units that fit, the finest of each layer the rest."""
    finest: dict[int | None, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: c.saves * (c.after(0) or 0), reverse=True):
        finest[candidate.groups[0].layer] = candidate
    fine = [candidate in finest.values() for candidate in candidates]
    share = asked / max(1, sum(c.saves * c.num_units for c in candidates))
    removed = [0 if is_fine else c.floor(share * c.num_units) for c, is_fine in zip(candidates, fine)]
    left = asked - saved(candidates, removed)
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
        if more >= 2 * (asked - saved(candidates, removed)):
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
