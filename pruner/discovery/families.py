"""Units that take away like slices of the same parameters, collected into families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from pruner.discovery.constraints import Axis, Constraints, Mark, MarkKind
from pruner.discovery.solving import Bools, Ints, Solution, axis_atoms


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What the units of a family own along one axis.

    Attributes:
        axis: the axis.
        index: (num_units, width) its indices.
        reads: a parameter contracts them.
    """

    axis: Axis
    index: Ints
    reads: bool


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Choices of one kind: each unit can fall by itself.

    Attributes:
        pieces: what a unit owns, in the order of the model's axes.
        factor: the units stand for one of several axes that labels varied along (heads, dimensions).
        marks: what was seen of any atom that falls with a unit.
        falls: (num_units, num_classes) the classes that fall with each unit.
        class_of: (num_atoms,) the class of every atom.
    """

    pieces: tuple[Piece, ...]
    factor: bool
    marks: Mapping[MarkKind, tuple[Mark, ...]]
    falls: sp.csr_matrix
    class_of: Ints

    @property
    def num_units(self) -> int:
        """How many units there are."""
        return int(self.falls.shape[0])

    def falling(self, units: Ints) -> Bools:
        """(num_classes,) which classes fall with the units."""
        gone: Bools = np.asarray(self.falls[units].sum(axis=0)).reshape(-1) > 0
        gone[self.class_of[0]] = False
        return gone


def families_of(constraints: Constraints, solution: Solution) -> list[Family]:
    """All families: the classes that nothing else takes away, collected by what they own.

    Two classes are of one family when they own as many indices of the same axes and the same was seen of
    both. They come in the order of the model's parameters.
    """
    primitive = primitive_classes(constraints, solution)
    falls = solution.closure(primitive)
    kinds, marked = marked_classes(constraints, solution)
    seen = np.asarray((falls @ marked.T).todense()) > 0
    atoms, axis_of = axis_atoms(constraints)
    owns = sp.csr_matrix(
        (np.ones(len(atoms), np.int32), (solution.class_of[atoms], np.arange(len(atoms)))),
        shape=(solution.num_classes, len(atoms)),
    )
    owned = (falls @ owns).tocsr()
    owned.sort_indices()
    found, read = [], atoms_read(constraints)
    for rows in alike(owned, axis_of, len(constraints.axes), seen, solution.factors[primitive]):
        if owned.indptr[rows[0] + 1] == owned.indptr[rows[0]]:
            continue
        pieces = pieces_of(constraints, owned, axis_of, rows)
        classes = np.unique(falls[rows].indices).astype(np.int64)
        marks = marks_on(constraints, solution, classes, [kinds[k] for k in np.flatnonzero(seen[rows[0]])])
        factor = bool(solution.factors[primitive[rows[0]]])
        found.append(Family(mark_reads(pieces, read), factor, marks, falls[rows], solution.class_of))
    return sorted(found, key=order_of)


def order_of(family: Family) -> tuple[int, int, int]:
    """Where a family comes among others: by its first axis, its first index there, its fewest units."""
    first = family.pieces[0]
    return (first.axis.first, int(first.index.min()), family.num_units)


def primitive_classes(constraints: Constraints, solution: Solution) -> Ints:
    """Classes that own something or take something away, and that no other class takes away."""
    atoms, _ = axis_atoms(constraints)
    candidates = np.zeros(solution.num_classes, bool)
    candidates[solution.class_of[atoms]] = True
    candidates[solution.cause] = True
    candidates[solution.effect] = False
    candidates[solution.class_of[0]] = False
    return np.flatnonzero(candidates)


def marked_classes(constraints: Constraints, solution: Solution) -> tuple[list[MarkKind], sp.csr_matrix]:
    """The kinds of marks, and (kinds, num_classes) which classes bear them; a whole axis counts as frozen."""
    kinds: list[MarkKind] = sorted({"frozen", *(mark.kind for mark in constraints.marks)})
    table = np.zeros((len(kinds), solution.num_classes), np.int32)
    for mark in constraints.marks:
        table[kinds.index(mark.kind), solution.class_of[mark.labels]] = 1
    table[kinds.index("frozen"), solution.whole] = 1
    return kinds, sp.csr_matrix(table)


def alike(owned: sp.csr_matrix, axis_of: Ints, num_axes: int, seen: Bools, factors: Bools) -> list[Ints]:
    """Rows with equal numbers of indices on every axis, equal marks and equal nature."""
    numbers = np.random.default_rng(0).integers(1, 2**62, num_axes + seen.shape[1] + 1).astype(np.uint64)
    running = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum(numbers[axis_of[owned.indices]], dtype=np.uint64)]
    )
    key = running[owned.indptr[1:]] - running[owned.indptr[:-1]]
    traits = np.concatenate([seen, factors[:, None]], axis=1)
    key = key + (traits * numbers[num_axes:]).sum(axis=1, dtype=np.uint64)
    order = np.argsort(key, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(key[order]) != 0) + 1) if len(order) else []


def pieces_of(constraints: Constraints, owned: sp.csr_matrix, axis_of: Ints, rows: Ints) -> list[Piece]:
    """The indices that each row owns, axis by axis."""
    width = int(owned.indptr[rows[0] + 1] - owned.indptr[rows[0]])
    places = owned.indices[owned.indptr[rows][:, None] + np.arange(width)]
    atoms, _ = axis_atoms(constraints)
    axes = axis_of[places[0]]
    cuts = np.flatnonzero(np.diff(axes)) + 1
    pieces = []
    for columns in np.split(np.arange(width), cuts):
        axis = constraints.axes[axes[columns[0]]]
        pieces.append(Piece(axis, atoms[places[:, columns]] - axis.first, False))
    return pieces


def atoms_read(constraints: Constraints) -> Bools:
    """(num_atoms,) which atoms were contracted, by themselves or as what defines them was."""
    read = np.zeros(constraints.num_atoms, bool)
    for mark in constraints.marks:
        if mark.kind == "reads":
            read[mark.labels] = True
    for target, factors in reversed(constraints.definitions):
        read[target] |= np.any([read[factor] for factor in factors], axis=0)
    read[0] = False
    return read


def mark_reads(pieces: list[Piece], read: Bools) -> tuple[Piece, ...]:
    """Set `reads` where a contraction was seen on the axis itself."""
    return tuple(
        Piece(piece.axis, piece.index, bool(read[piece.axis.first + piece.index[0, 0]])) for piece in pieces
    )


def marks_on(
    constraints: Constraints, solution: Solution, classes: Ints, kinds: list[MarkKind]
) -> dict[MarkKind, tuple[Mark, ...]]:
    """The marks of these kinds on these classes."""
    there = np.zeros(solution.num_classes, bool)
    there[classes] = True
    found: dict[MarkKind, tuple[Mark, ...]] = {}
    for kind in kinds:
        marks = [mark for mark in constraints.marks if mark.kind == kind]
        found[kind] = tuple(mark for mark in marks if there[solution.class_of[mark.labels]].any())
    return found


def refusal(family: Family) -> str | None:
    """Why a family must not be cut, None if it may."""
    if family.num_units == 1:
        return "no other unit takes as much of the same parameters"
    for kind in ("frozen", "constant"):
        marks = family.marks.get(kind, ())  # type: ignore[call-overload]
        if kind in family.marks:
            return "; ".join(sorted({mark.reason for mark in marks})) or "it would empty a whole axis"
    return None
