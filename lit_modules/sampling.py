"""Which rows come next, as a pure function of one number: how many have been consumed."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """One rank's share of one batch.

    Attributes:
        rows: row indices, -1 for none (a filler that is not learned from).
        position: samples that all ranks together have consumed once this batch is done.
        mean_targets: learned tokens per batch and rank, averaged over the optimizer step this batch
            belongs to: the divisor that makes the step's gradient an exact mean over its tokens.
    """

    rows: Rows
    position: int
    mean_targets: float


@dataclass(frozen=True, slots=True)
class Share:
    """Who takes what of an optimizer step: batch size per rank, accumulation, and the rank's place."""

    batch_size: int
    accumulation: int = 1
    world_size: int = 1
    rank: int = 0

    @property
    def step_rows(self) -> int:
        """Rows that all ranks together consume in one optimizer step."""
        return self.batch_size * self.accumulation * self.world_size


class Order:
    """An endless sequence of rows: one shuffled pass over all of them after another.

    It depends on the seed alone, so any position is reached at once and any number of ranks continues
    the same sequence.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows = num_rows
        self.seed = seed
        self._passes: dict[int, Rows] = {}

    def rows(self, start: int, count: int) -> Rows:
        """Rows at positions start … start + count - 1."""
        positions = np.arange(start, start + count)
        passes, places = np.divmod(positions, self.num_rows)
        return np.concatenate([self._shuffled(each)[places[passes == each]] for each in np.unique(passes)])

    def _shuffled(self, number: int) -> Rows:
        if number not in self._passes:
            if len(self._passes) > 1:
                self._passes.clear()
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(number))
            self._passes[number] = torch.randperm(self.num_rows, generator=generator).numpy()
        return self._passes[number]


def training_picks(order: Order, targets: NDArray[np.int32], share: Share, start: int) -> Iterator[Pick]:
    """The rank's batches from position `start` on (the boundary of an optimizer step), without end.

    Args:
        order: the rows' sequence.
        targets: (num_rows,) learned tokens of every row.
        share: the rank's place.
        start: samples consumed so far, by all ranks together.
    """
    batch_rows = share.batch_size * share.world_size
    while True:
        window = order.rows(start, share.step_rows)
        mean_targets = float(targets[window].sum()) / (share.accumulation * share.world_size)
        for first in range(0, share.step_rows, batch_rows):
            mine = first + share.rank * share.batch_size
            yield Pick(window[mine : mine + share.batch_size], start + first + batch_rows, mean_targets)
        start += share.step_rows


def held_out_picks(num_rows: int, share: Share) -> Iterator[Pick]:
    """Every row once, in order; every rank gets equally many batches, filled up with -1."""
    batch_rows = share.batch_size * share.world_size
    for first in range(0, num_rows, batch_rows):
        rows = np.arange(first, first + batch_rows)
        mine = rows[share.rank * share.batch_size :][: share.batch_size]
        yield Pick(np.where(mine < num_rows, mine, -1), first + batch_rows, 1.0)


class Loader:
    """Batches from picks, collated by worker processes.

    Not a DataLoader itself, so that no trainer replaces its sampler; what to pick is asked for when the
    first batch is, not when the iterator is made, so a restored position counts. `waited` adds up the
    seconds that no batch was ready.
    """

    def __init__(
        self,
        picks: Callable[[], Iterator[Pick]],
        length: int,
        collate: Callable[[Pick], dict[str, Any]],
        num_workers: int = 0,
        *,
        pin_memory: bool = False,
    ) -> None:
        self.picks = picks
        self.length = length
        self.collate = collate
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.waited = 0.0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches; draws nothing from the global random state."""
        batches = iter(self._processes())
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield batch

    def _processes(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(
            _Collated(self.collate),
            batch_size=None,
            sampler=_Once(self.picks()),
            collate_fn=_unchanged,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            generator=torch.Generator().manual_seed(0),
        )


class _Once:
    """A sampler out of an iterator."""

    def __init__(self, picks: Iterator[Pick]) -> None:
        self.picks = picks

    def __iter__(self) -> Iterator[Pick]:
        return self.picks


class _Collated(Dataset[dict[str, Any]]):
    def __init__(self, collate: Callable[[Pick], dict[str, Any]]) -> None:
        self.collate = collate

    def __getitem__(self, pick: Any) -> dict[str, Any]:
        return self.collate(pick)


def _unchanged(batch: Any) -> Any:
    return batch
