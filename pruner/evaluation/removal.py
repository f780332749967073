"""What a plan took away, arranged for drawing: widths by kind and layer, scores of what stayed and went."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pruner.plan import GroupPlan, PruningPlan

KINDS = {
    "mlp": "MLP channels",
    "attention": "attention",
    "query": "query heads",
    "expert": "experts",
    "layer": "whole layer",
}


@dataclass(frozen=True, slots=True)
class Width:
    """Units of one kind in one layer."""

    kept: int
    dense: int

    @property
    def removed(self) -> float:
        """Share that went."""
        return 1 - self.kept / self.dense if self.dense else 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of the units of one kind that stayed and that went; decimal logarithms if all are positive."""

    kept: tuple[float, ...]
    removed: tuple[float, ...]
    logarithmic: bool


def widths(plan: PruningPlan) -> dict[str, list[Width | None]]:
    """Kind -> one width for each layer of the dense model, None where the plan names no group of that kind.

    A layer that goes whole keeps none of as many units as the widest layer had.
    """
    table: dict[str, list[Width | None]] = {}
    for kind in KINDS:
        shares = _of(plan, kind)
        row = [_width(each for each in shares if each.layer == layer) for layer in range(plan.num_layers)]
        if any(row):
            gone = Width(0, max(width.dense for width in row if width))
            table[KINDS[kind]] = [gone if layer in plan.dropped else each for layer, each in enumerate(row)]
    for share in _of(plan, "layer"):
        table[KINDS["layer"]] = [Width(int(unit in share.kept), 1) for unit in range(share.num_units)]
    return table


def hidden_width(plan: PruningPlan) -> Width | None:
    """Channels of the residual stream, None where the plan leaves them alone."""
    return _width(_of(plan, "hidden"))


def scores(plan: PruningPlan) -> dict[str, Scores]:
    """Kind -> its scores, for the kinds that were scored."""
    table = {}
    for kind in dict.fromkeys(share.kind for share in plan.groups.values()):
        kept: list[float] = []
        removed: list[float] = []
        for share in _of(plan, kind):
            stays = set(share.kept)
            for unit, score in enumerate(share.scores or ()):
                if math.isfinite(score):
                    (kept if unit in stays else removed).append(score)
        if kept or removed:
            table[KINDS.get(kind, kind)] = _scores(kept, removed)
    return table


def _scores(kept: list[float], removed: list[float]) -> Scores:
    if min([*kept, *removed]) <= 0:
        return Scores(tuple(kept), tuple(removed), False)
    return Scores(tuple(map(math.log10, kept)), tuple(map(math.log10, removed)), True)


def _of(plan: PruningPlan, kind: str) -> list[GroupPlan]:
    return [share for share in plan.groups.values() if share.kind == kind]


def _width(shares: Iterable[GroupPlan]) -> Width | None:
    found = list(shares)
    if not found:
        return None
    return Width(sum(len(share.kept) for share in found), sum(share.num_units for share in found))
