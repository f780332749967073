"""Opened caches, parted by a hash of the text into what is learned, in which order, and what is held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lit_modules.bundling import Bundling
from lit_modules.sampling import Order
from lit_modules.sources import weighted
from lit_modules.token_cache import Examples, open_examples


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What there is to learn from.

    Attributes:
        examples: the opened caches.
        learned: (num_learned,) their rows that are trained on, some of them several times.
        held_out: (num_held_out,) the others.
        order: of the learned ones, by their place in `learned`.
    """

    examples: Examples
    learned: NDArray[np.int64]
    held_out: NDArray[np.int64]
    order: Order

    @property
    def targets(self) -> NDArray[np.int32]:
        """(num_learned,) learned tokens of each."""
        counts: NDArray[np.int32] = (self.examples.lengths - self.examples.num_prompts)[self.learned]
        return counts


def part(
    caches: Sequence[Path],
    weights: Sequence[float],
    validation_share: float,
    bundle: Callable[[NDArray[np.int32]], Bundling],
    seed: int,
) -> Samples:
    """Open `caches` and part their examples.

    Args:
        caches: folders of tokenised examples.
        weights: how often each one's examples are seen in a pass.
        validation_share: share of the examples to hold out, in [0, 1).
        bundle: lengths -> which samples travel together.
        seed: of the order.

    Raises:
        ValueError: nothing is left to learn from.
    """
    examples = open_examples(caches)
    held_out = examples.digests.astype(np.float64) / 2**64 < validation_share
    rows = [np.flatnonzero(~held_out[start:end]) + start for start, end in pairwise(examples.bounds)]
    learned = np.concatenate(
        [weighted(part, examples.digests, weight) for part, weight in zip(rows, weights, strict=True)]
    )
    if not len(learned):
        raise ValueError(f"all {len(examples)} examples are held out; lower data.validation_share")
    order = Order(bundle(examples.lengths[learned]), seed)
    return Samples(examples, learned, np.flatnonzero(held_out), order)
