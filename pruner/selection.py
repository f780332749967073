"""From a budget to widths, and from scores to the units that stay."""

import math
from collections.abc import Collection, Mapping, Sequence
from operator import sub
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pruner.budget import Budget, decoder_parameters
from pruner.candidates import Candidate, available, candidates_of, saved, step_of
from pruner.discovery import Structure
from pruner.groups import Group, Shapes
from pruner.stepping import equal_shares, one_threshold

Granularity = Literal["block", "global"]

EXACT = 1e-9
"""Share of a decoder up to which two budgets are one."""

DIGITS = 1e-4
"""Shares of a decoder are said to this."""


def prunable(structure: Structure, kinds: Sequence[str], first: int, last: int) -> list[Group]:
    """Groups of the given kinds outside the `first` and `last` decoder layers, which are protected."""
    open_layers = range(first, len(structure.layers) - last)
    return [group for group in structure.groups if group.kind in kinds and group.layer in open_layers]


def check_apart(groups: Sequence[Group]) -> None:
    """Raise ValueError where a unit of one group is part of a unit of another: heads of key-value groups."""
    owners: dict[tuple[str, int], list[Group]] = {}
    for group in groups:
        for piece in group.slices:
            owners.setdefault((piece.name, piece.dim), []).append(group)
    for (name, dim), sharing in owners.items():
        taken = np.zeros(0, dtype=np.int64)
        for group in sharing:
            own = np.concatenate(
                [p.index.reshape(-1) for p in group.slices if (p.name, p.dim) == (name, dim)]
            )
            if len(np.intersect1d(taken, own)):
                raise ValueError(
                    f"kinds {' and '.join(dict.fromkeys(each.kind for each in sharing))} take the same parts "
                    f"of {name}: name one of them"
                )
            taken = np.concatenate([taken, own])


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
    A budget of widths says it by itself. A ratio is met as nearly as whole steps allow, from either side; a
    target is a limit, and what is left stays inside it.

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
    alike = granularity == "block" and _in_all_layers(groups, layers, dropped)
    candidates = candidates_of(groups, shapes, budget, alike)
    asked = _asked(candidates, shapes, layers, budget, dropped)
    if granularity == "block":
        removed = equal_shares(candidates, asked, inside=bool(budget.targets))
    elif scores is None:
        raise ValueError("granularity 'global' compares scores; choose a criterion that gives them")
    else:
        removed = one_threshold(candidates, asked, scores, inside=bool(budget.targets))
    return {group.name: count for candidate, count in zip(candidates, removed) for group in candidate.groups}


def check_met(
    groups: Sequence[Group],
    shapes: Shapes,
    layers: Sequence[str],
    budget: Budget,
    dropped: Collection[int] = (),
) -> None:
    """Raise ValueError where whole steps come no nearer to a budget than a tenth of it; see `allocate`."""
    if budget.widths is not None:
        _beyond(groups, budget.widths, budget)
        return
    candidates = candidates_of(groups, shapes, budget, _in_all_layers(groups, layers, dropped))
    asked = _asked(candidates, shapes, layers, budget, dropped)
    total, whole = decoder_parameters(shapes, layers), budget.asked(shapes, layers)

    def reached(share: float) -> float:
        missing = min(max(0.0, share * total - (whole - asked)), available(candidates))
        return (
            whole - asked + saved(candidates, equal_shares(candidates, missing, bool(budget.targets)))
        ) / total

    def rounded(share: float) -> float:
        return round(math.floor(share / DIGITS) * DIGITS, 4)

    if abs(reached(whole / total) - whole / total) <= 0.1 * whole / total:
        return
    step = min(
        candidate.saves * max(map(sub, candidate.counts[1:], candidate.counts), default=candidate.num_units)
        for candidate in candidates
    )
    around = {rounded(reached((whole + k * step) / total)) for k in range(-2, 3)}
    around |= {rounded(reached(share)) for share in around}  # asked for, they may lead to others
    met = sorted(share for share in around if abs(reached(share) - share) < DIGITS)
    nearest = [
        *[share for share in met if share * total < whole][-1:],
        *[share for share in met if share * total > whole][:1],
    ]
    raise ValueError(
        f"{whole / total:.4g} of the decoder cannot be met in whole units and multiples of budget.round_to; "
        f"the nearest are {' and '.join(map(str, nearest)) or 'not known'}: ask for one of them, lower "
        "budget.round_to, or let more kinds go"
    )


def _in_all_layers(groups: Sequence[Group], layers: Sequence[str], dropped: Collection[int]) -> bool:
    """Whether no layer that stays is protected: then all stay alike."""
    return len({group.layer for group in groups}) == len(layers) - len(dropped)


def _asked(
    candidates: Sequence[Candidate],
    shapes: Shapes,
    layers: Sequence[str],
    budget: Budget,
    dropped: Collection[int],
) -> float:
    """Parameters that the candidates are to give, beside the layers that go whole.

    Raises:
        ValueError: they cannot, or those layers are more than the budget.
    """
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
        number = sum(len(candidate.groups) for candidate in candidates)
        rounding = "" if budget.round_to in (None, 1) else ", lower budget.round_to"
        raise ValueError(
            f"{asked / total:.3g} of the decoder cannot be removed: the {number} groups that may be pruned "
            f"give at most {limit / total:.3f}; protect fewer layers{rounding}, or ask for less"
        )
    return asked


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


def lowest(scores: Tensor, num_removed: int) -> tuple[int, ...]:
    """The units that stay, ascending, when the `num_removed` of lowest score go; of equals the first."""
    order = torch.argsort(scores, stable=True)
    return tuple(sorted(int(unit) for unit in order[num_removed:]))
