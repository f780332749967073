"""From constraints to classes of atoms that fall together, and which class takes which others away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from pruner.discovery.constraints import Constraints

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DEPTH = 8
"""Factors of factors: views of views nest no deeper than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """The lattice of classes.

    Attributes:
        class_of: (num_atoms,) the class of every atom.
        num_classes: how many there are.
        cause, effect: edges; when class `cause` falls, class `effect` does.
        factors: (num_classes,) whether a class stands for one of several axes that take others away.
        whole: (num_classes,) whether falling would empty a whole axis, which can never go.
    """

    class_of: Ints
    num_classes: int
    cause: Ints
    effect: Ints
    factors: Bools
    whole: Bools

    def closure(self, classes: Ints) -> sp.csr_matrix:
        """(len(classes), num_classes) with an entry for every class that falls with each of `classes`."""
        shape = (self.num_classes, self.num_classes)
        edges = sp.csr_matrix((np.ones(len(self.cause), np.int32), (self.cause, self.effect)), shape=shape)
        reached = indicator(classes, self.num_classes)
        front = reached
        for _ in range(DEPTH):
            front = front @ edges
            if front.nnz == 0:
                break
            front.data[:] = 1
            reached = (reached + front).tocsr()
            reached.data[:] = 1
        return reached


def solve(constraints: Constraints) -> Solution:
    """Unite what falls together, to a fixpoint.

    Two factors that take away the same leaves are one choice and are united, which may make others equal.
    Then whoever would empty an axis is ruled out, and of the factors that are left, one whose leaves
    contain another's takes that one away.
    """
    target, factor = definition_pairs(constraints)
    ones, others = stacked(constraints.unions)
    while True:
        class_of, num_classes = united(ones, others, constraints.num_atoms)
        cause, effect = edges_between(class_of, num_classes, factor, target)
        leaves = leaves_of(cause, effect, num_classes)
        pairs = equal_rows(*leaves)
        if not len(pairs):
            break
        member = np.zeros(num_classes, np.int64)
        member[class_of] = np.arange(constraints.num_atoms)
        ones = np.concatenate([ones, member[pairs[:, 0]]])
        others = np.concatenate([others, member[pairs[:, 1]]])
    whole = empties_an_axis(constraints, class_of, num_classes, *leaves)
    allowed = ~whole[cause]
    more_cause, more_effect = containments(leaves[0][~whole[leaves[0]]], leaves[1][~whole[leaves[0]]])
    cause, effect = cause[allowed], effect[allowed]
    factors = np.zeros(num_classes, bool)
    factors[cause] = True
    return Solution(
        class_of,
        num_classes,
        np.concatenate([cause, more_cause]),
        np.concatenate([effect, more_effect]),
        factors,
        whole,
    )


def definition_pairs(constraints: Constraints) -> tuple[Ints, Ints]:
    """Every (target atom, factor atom)."""
    pairs = [(target, factor) for target, factors in constraints.definitions for factor in factors]
    target, factor = stacked(pairs)
    return target[factor != 0], factor[factor != 0]


def stacked(pairs: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """Two long arrays from pairs of short ones."""
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs])


def united(ones: Ints, others: Ints, num_atoms: int) -> tuple[Ints, int]:
    """The class of every atom after uniting pairs, and the number of classes."""
    graph = sp.coo_matrix((np.ones(len(ones), np.int8), (ones, others)), shape=(num_atoms, num_atoms))
    num_classes, class_of = connected_components(graph, directed=False)
    return class_of.astype(np.int64), int(num_classes)


def edges_between(class_of: Ints, num_classes: int, factor: Ints, target: Ints) -> tuple[Ints, Ints]:
    """Distinct edges from the classes of factors to those of their targets."""
    cause, effect = class_of[factor], class_of[target]
    differ = cause != effect
    code = np.unique(cause[differ] * num_classes + effect[differ])
    return code // num_classes, code % num_classes


def leaves_of(cause: Ints, effect: Ints, num_classes: int) -> tuple[Ints, sp.csr_matrix]:
    """The classes with effects, and (len, num_classes) the last effects of each."""
    factors, row = np.unique(cause, return_inverse=True)
    leaves = sp.csr_matrix((np.ones(len(cause), np.int32), (row, effect)), shape=(len(factors), num_classes))
    row_of = np.full(num_classes, -1)
    row_of[factors] = np.arange(len(factors))
    for _ in range(DEPTH):
        inner = row_of[leaves.indices] >= 0
        if not inner.any():
            break
        rows = np.repeat(np.arange(len(factors)), np.diff(leaves.indptr))
        columns = leaves.indices
        last = sp.csr_matrix(
            (np.ones(int((~inner).sum()), np.int32), (rows[~inner], columns[~inner])), leaves.shape
        )
        through = sp.csr_matrix(
            (np.ones(int(inner.sum()), np.int32), (rows[inner], row_of[columns[inner]])),
            shape=(len(factors), len(factors)),
        )
        leaves = (last + through @ leaves).tocsr()
        leaves.data[:] = 1
    leaves.sort_indices()
    return factors, leaves


def equal_rows(classes: Ints, leaves: sp.csr_matrix) -> Ints:
    """(pairs, 2) classes whose rows are equal, each with the first that is so."""
    first: dict[bytes, int] = {}
    pairs = []
    for number, name in enumerate(classes):
        row = leaves.indices[leaves.indptr[number] : leaves.indptr[number + 1]].tobytes()
        earlier = first.setdefault(row, int(name))
        if earlier != name:
            pairs.append((earlier, int(name)))
    return np.array(pairs, np.int64).reshape(-1, 2)


def empties_an_axis(
    constraints: Constraints, class_of: Ints, num_classes: int, factors: Ints, leaves: sp.csr_matrix
) -> Bools:
    """Which classes hold all atoms of some axis, by themselves or with what they take away."""
    sizes = np.array([axis.size for axis in constraints.axes], np.int64)
    atoms, axis_of = axis_atoms(constraints)
    shape = (num_classes, len(sizes))
    held = sp.csr_matrix((np.ones(len(atoms), np.int32), (class_of[atoms], axis_of)), shape=shape)
    whole = np.zeros(num_classes, bool)
    own = indicator(factors, num_classes)
    for classes, counts in ((np.arange(num_classes), held), (factors, (leaves + own) @ held)):
        entries = counts.tocoo()
        full = (entries.data >= sizes[entries.col]) & (sizes[entries.col] > 1)
        whole[classes[np.unique(entries.row[full])]] = True
    return whole


def axis_atoms(constraints: Constraints) -> tuple[Ints, Ints]:
    """Every atom that an axis owns, and that axis."""
    atoms = [np.arange(axis.first, axis.first + axis.size) for axis in constraints.axes]
    numbers = [np.full(axis.size, number) for number, axis in enumerate(constraints.axes)]
    return np.concatenate(atoms), np.concatenate(numbers)


def containments(factors: Ints, leaves: sp.csr_matrix) -> tuple[Ints, Ints]:
    """Edges from each factor to those whose leaves it strictly contains."""
    if not len(factors):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    sizes = np.diff(leaves.indptr)
    common = (leaves @ leaves.T).tocoo()
    inside = (common.row != common.col) & (common.data == sizes[common.row])
    inside &= sizes[common.row] < sizes[common.col]
    return factors[common.col[inside]], factors[common.row[inside]]


def indicator(columns: Ints, width: int) -> sp.csr_matrix:
    """(len(columns), width) with a one in each row at its column."""
    rows = np.arange(len(columns))
    return sp.csr_matrix((np.ones(len(columns), np.int32), (rows, columns)), shape=(len(columns), width))
