"""Which bundles come next, as a pure function of one number: how many have been consumed."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_modules.bundling import Bundling, Rows

BATCHES_AHEAD = 2
"""Of each thread."""

FILLER = np.array([-1])
"""A bundle of no sample."""


@dataclass(frozen=True, slots=True, eq=False)
class Pick:
    """One rank's share of one batch.

    Attributes:
        bundles: the samples of each bundle (`bundling`), -1 for none (a filler that is not learned from).
        position: bundles that all ranks together have consumed once this batch is done.
        mean_targets: learned tokens per batch and rank, averaged over the optimizer step this batch
            belongs to: the divisor that makes the step's gradient an exact mean over its tokens.
    """

    bundles: list[Rows]
    position: int
    mean_targets: float


@dataclass(frozen=True, slots=True)
class Share:
    """Who takes what of an optimizer step: bundles per batch, accumulation, and the rank's place."""

    batch_size: int
    accumulation: int = 1
    world_size: int = 1
    rank: int = 0

    @property
    def step_size(self) -> int:
        """Bundles that all ranks together consume in one optimizer step."""
        return self.batch_size * self.accumulation * self.world_size


class Order:
    """An endless sequence of bundles: one shuffled pass over all of them after another.

    It depends on the seed alone, so any position is reached at once and any number of ranks continues
    the same sequence.
    """

    def __init__(self, bundling: Bundling, seed: int) -> None:
        self.bundling = bundling
        self.seed = seed
        self._passes: dict[int, tuple[Rows, Rows]] = {}

    def bundles(self, start: int, count: int) -> list[Rows]:
        """The samples of the bundles at positions start … start + count - 1."""
        found = []
        for position in range(start, start + count):
            number, place = divmod(position, len(self.bundling))
            shuffled, ranked = self._pass(number)
            found.append(self.bundling.members(ranked, shuffled[place]))
        return found

    def _pass(self, number: int) -> tuple[Rows, Rows]:
        """The order of a pass's bundles, and its ranking of the samples."""
        if number not in self._passes:
            if len(self._passes) > 1:
                self._passes.clear()
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            shuffled = torch.randperm(len(self.bundling), generator=generator).numpy()
            self._passes[number] = shuffled, self.bundling.rank(generator)
        return self._passes[number]


def training_picks(
    order: Order, targets: NDArray[np.int32], share: Share, start: int, end: int | None = None
) -> Iterator[Pick]:
    """The rank's batches from position `start` on (the boundary of an optimizer step), without end.

    Args:
        order: the bundles' sequence.
        targets: (num_samples,) learned tokens of every sample.
        share: the rank's place.
        start: bundles consumed so far, by all ranks together.
        end: the position to stop at; the last step is filled up with -1.
    """
    batch = share.batch_size * share.world_size
    while end is None or start < end:
        count = share.step_size if end is None else min(share.step_size, end - start)
        window = order.bundles(start, count)
        total = float(targets[np.concatenate(window)].sum())
        window += [FILLER] * (share.step_size - count)
        mean_targets = total / (share.accumulation * share.world_size)
        for first in range(0, share.step_size, batch):
            mine = first + share.rank * share.batch_size
            yield Pick(window[mine : mine + share.batch_size], start + first + batch, mean_targets)
        start += share.step_size


def held_out_picks(bundling: Bundling, share: Share) -> Iterator[Pick]:
    """Every bundle once, in order; every rank gets equally many batches, filled up with -1."""
    batch = share.batch_size * share.world_size
    ranked = bundling.rank(torch.Generator().manual_seed(0))
    for first in range(0, len(bundling), batch):
        mine = range(first + share.rank * share.batch_size, first + (share.rank + 1) * share.batch_size)
        bundles = [bundling.members(ranked, each) if each < len(bundling) else FILLER for each in mine]
        yield Pick(bundles, first + batch, 1.0)


class Loader:
    """Batches from picks, collated ahead by threads.

    Threads and no processes: a process of training has native threads, and a fork of it may hang (Python up
    to 3.11.9 does in its own lock, cpython issue 112275), nor need the samples be copied or shared.

    Not a DataLoader, so that no trainer replaces its order; what to pick is asked for when the first batch
    is, not when the iterator is made, so a restored position counts. `waited` adds up the seconds that no
    batch was ready.
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
        batches = self._ahead() if self.num_workers else map(self._batch, self.picks())
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield batch

    def _ahead(self) -> Iterator[dict[str, Any]]:
        """Batches in order, while the threads collate those to come."""
        picks = self.picks()
        pool = ThreadPoolExecutor(self.num_workers, "collate")
        try:
            first = islice(picks, BATCHES_AHEAD * self.num_workers)
            batches = deque(pool.submit(self._batch, pick) for pick in first)
            while batches:
                batch = batches.popleft()
                batches.extend(pool.submit(self._batch, pick) for pick in islice(picks, 1))
                yield batch.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _batch(self, pick: Pick) -> dict[str, Any]:
        batch = self.collate(pick)
        if self.pin_memory:
            return {
                name: each.pin_memory() if isinstance(each, Tensor) else each for name, each in batch.items()
            }
        return batch
