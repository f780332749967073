"""Two tensors meet along an axis: which of their atoms are the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from pruner.discovery.constraints import Constraints
from pruner.discovery.labels import Labels, pattern


def match(constraints: Constraints, ours: Sequence[Labels], theirs: Sequence[Labels]) -> list[Labels]:
    """Reconcile the facets that two tensors have on the same axis; returns the facets of the result.

    Equal partitions are united. Where one refines others (query heads meet key-value groups) the finer
    falls with the coarser ones or with its position inside their blocks, which gets new atoms.
    """
    if not ours or not theirs:
        return [*ours, *theirs]
    if len(ours[0]) != len(theirs[0]):
        for labels in (*ours, *theirs):
            constraints.mark("frozen", labels, "axes of different sizes meet")
        return []
    met, ours, theirs = unite_alike(constraints, ours, theirs)
    if not ours or not theirs:
        return [*met, *ours, *theirs]
    for finer, coarser in ((ours, theirs), (theirs, ours)):
        refined = refine_one(constraints, finer, coarser)
        if refined is not None:
            return met + refined
    first, *others = theirs
    for labels in (*ours, *others):
        first = constraints.union(labels, first)
    return [*met, first]


def unite_alike(
    constraints: Constraints, ours: Sequence[Labels], theirs: Sequence[Labels]
) -> tuple[list[Labels], list[Labels], list[Labels]]:
    """Unite facets that are equal, then those that partition the axis alike; also returns what is left."""
    met: list[Labels] = []
    left, right = list(ours), list(theirs)
    for same in (np.array_equal, partition_alike):
        left, right = unite_where(constraints, same, left, right, met)
    return met, left, right


def unite_where(
    constraints: Constraints,
    same: Callable[[Labels, Labels], bool],
    ours: list[Labels],
    theirs: list[Labels],
    met: list[Labels],
) -> tuple[list[Labels], list[Labels]]:
    """Move the pairs for which `same` holds to `met`, united."""
    left = []
    for labels in ours:
        partner = next((i for i, other in enumerate(theirs) if same(labels, other)), None)
        if partner is None:
            left.append(labels)
        else:
            met.append(constraints.union(labels, theirs.pop(partner)))
    return left, theirs


def partition_alike(one: Labels, other: Labels) -> bool:
    """Whether two facets divide the axis into the same blocks."""
    return np.array_equal(one == 0, other == 0) and np.array_equal(pattern(one), pattern(other))


def refine_one(
    constraints: Constraints, finer: Sequence[Labels], coarser: Sequence[Labels]
) -> list[Labels] | None:
    """The first facet that refines some of the coarser ones is defined by them; None if there is none."""
    for i, labels in enumerate(finer):
        for size in range(len(coarser), 0, -1):
            for chosen in itertools.combinations(range(len(coarser)), size):
                blocks = [coarser[k] for k in chosen]
                residual = refine(constraints, labels, blocks)
                if residual is None:
                    continue
                ours = [*finer[:i], *finer[i + 1 :], *residual]
                theirs = [coarser[k] for k in range(len(coarser)) if k not in chosen]
                return blocks + match(constraints, ours, theirs)
    return None


def refine(constraints: Constraints, finer: Labels, blocks: Sequence[Labels]) -> list[Labels] | None:
    """Define `finer` by the blocks it lies in and, where these hold several of it, its place within.

    Returns the facet of those places, [] where the blocks alone say it, None where it does not refine.
    """
    live = finer != 0
    covered = np.any([block != 0 for block in blocks], axis=0)
    if not live.any() or not np.array_equal(live & covered, live):
        return None
    atoms, first = np.unique(finer[live], return_index=True)
    places = np.flatnonzero(live)[np.sort(first)]
    together = np.stack([finer[live], *(block[live] for block in blocks)], axis=1)
    if len(np.unique(together, axis=0)) != len(atoms):
        return None
    owners = np.stack([block[places] for block in blocks], axis=1)
    _, block_of, sizes = np.unique(owners, axis=0, return_inverse=True, return_counts=True)
    size = int(sizes[0])
    if (sizes != size).any() or len(sizes) == 1 or (len(blocks) == 1 and size == 1):
        return None
    factors = [block[places] for block in blocks]
    if size == 1:
        constraints.define(finer[places], factors)
        return []
    order = np.argsort(block_of.reshape(-1), kind="stable")
    rank = np.empty(len(places), np.int64)
    rank[order] = np.tile(np.arange(size), len(sizes))
    within = constraints.fresh(size)[rank]
    constraints.define(finer[places], [*factors, within])
    place_of = np.zeros(constraints.num_atoms, np.int64)
    place_of[finer[places]] = within
    return [np.where(live, place_of[finer], 0)]
