"""How many units go from each candidate, in steps that it allows: in equal shares, or by one threshold."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from pruner.candidates import Candidate, saved


def equal_shares(candidates: Sequence[Candidate], asked: float, inside: bool) -> list[int]:
    """Removed units of each candidate: coarse ones give whole units that fit, each layer's finest the rest.

    Args:
        candidates: what may lose units.
        asked: parameters that are to go.
        inside: as many at least; otherwise as nearly as whole steps allow.
    """
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
    _fill(candidates, removed, asked, [i for i, is_fine in enumerate(fine) if is_fine], inside)
    _fill(candidates, removed, asked, range(len(candidates)), inside)
    return removed


def _fill(
    candidates: Sequence[Candidate], removed: list[int], asked: float, allowed: Sequence[int], inside: bool
) -> None:
    """Remove step after step, evenly, while that brings what is saved nearer to `asked`, or up to it."""
    while (missing := asked - saved(candidates, removed)) > 0:
        steps = []
        for i in allowed:
            after = candidates[i].after(removed[i])
            if after is not None and (inside or candidates[i].saves * (after - removed[i]) < 2 * missing):
                steps.append((after / candidates[i].num_units, i, after))
        if not steps:
            return
        _, i, after = min(steps)
        removed[i] = after


def one_threshold(
    candidates: Sequence[Candidate], asked: float, scores: Mapping[str, Tensor], inside: bool
) -> list[int]:
    """Removed units of each candidate, by one threshold on score per parameter saved; see `equal_shares`."""
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
        if missing > 0 and (inside or more < 2 * missing):
            missing -= more
            removed[i] = after
    return removed
