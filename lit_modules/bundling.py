"""Which samples travel together: alone, beside others of their length, or packed into one row."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Batching = Literal["padded", "by_length", "packed"]


@dataclass(frozen=True, slots=True, eq=False)
class Bundling:
    """A way to part samples into bundles that depends on their lengths alone.

    Samples enter by their place among all, counted from the longest down. Who holds which of several
    places of equal length is drawn anew for every pass, so bundles mix while their number stays.

    Attributes:
        lengths: (num_samples,) tokens of every sample; all zero where length plays no part.
        places: (num_samples,) every place once, bundle after bundle.
        starts: (num_bundles + 1,) where in `places` each bundle begins, and the end.
    """

    lengths: NDArray[np.int32]
    places: Rows
    starts: Rows

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rank(self, generator: torch.Generator) -> Rows:
        """(num_samples,) the samples from the longest down, those of equal length in drawn order."""
        drawn: Rows = torch.randperm(len(self.lengths), generator=generator).numpy()
        if not self.lengths.any():
            return drawn
        return drawn[np.argsort(-self.lengths[drawn], kind="stable")]

    def members(self, ranked: Rows, bundle: int) -> Rows:
        """The samples of one bundle, given a pass's ranking."""
        return ranked[self.places[self.starts[bundle] : self.starts[bundle + 1]]]


def alone(num_samples: int) -> Bundling:
    """Every sample is a bundle."""
    return Bundling(np.zeros(num_samples, np.int32), np.arange(num_samples), np.arange(num_samples + 1))


def by_length(lengths: NDArray[np.int32], size: int) -> Bundling:
    """Bundles of `size` samples that are neighbours in length; the last one may be smaller."""
    starts = np.append(np.arange(0, len(lengths), size), len(lengths))
    return Bundling(lengths, np.arange(len(lengths)), starts)


def packed(lengths: NDArray[np.int32], capacity: int) -> Bundling:
    """Bundles of at most `capacity` tokens by best fit, the longest sample first.

    Each sample goes where it leaves the least room (best-fit decreasing, Johnson 1973; for training text
    Ding et al. 2024, 3.1). Rooms are a bit set, so a step costs capacity / 64.

    Raises:
        ValueError: a sample is longer than a bundle.
    """
    if len(lengths) and lengths.max() > capacity:
        raise ValueError(
            f"a sample has {lengths.max()} tokens and does not fit into a packed row of {capacity}; raise "
            "data.pack_length or lower data.max_length"
        )
    bundle_of = _best_fit(np.sort(lengths)[::-1].tolist(), capacity)
    sizes = np.bincount(bundle_of) if len(lengths) else np.zeros(0, np.int64)
    return Bundling(lengths, np.argsort(bundle_of, kind="stable"), np.append(0, np.cumsum(sizes)))


def _best_fit(lengths: list[int], capacity: int) -> Rows:
    """Number of the bundle that each of `lengths` (descending) goes to."""
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms, num_bundles = 0, 0
    bundle_of = []
    for length in lengths:
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            bundle = with_room[room].pop()
            rooms ^= (not with_room[room]) << room
        else:
            room, bundle, num_bundles = capacity, num_bundles, num_bundles + 1
        with_room[room - length].append(bundle)
        rooms |= 1 << (room - length)
        bundle_of.append(bundle)
    return np.array(bundle_of, dtype=np.int64)
