"""Bundles hold every sample once, fit, and hardly leave room."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_modules.bundling import alone, by_length, packed


def passes(bundling, seed=0):
    ranked = bundling.rank(torch.Generator().manual_seed(seed))
    return [bundling.members(ranked, bundle).tolist() for bundle in range(len(bundling))]


def some_lengths(num_samples, longest):
    drawn = np.random.default_rng(1).lognormal(4.5, 0.6, num_samples)
    return np.clip(drawn, 2, longest).astype(np.int32)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=80), st.integers(0, 9))
def test_packed_bundles_hold_every_sample_once_and_fit(lengths, seed):
    lengths = np.array(lengths, dtype=np.int32)
    bundles = passes(packed(lengths, 40), seed)
    assert sorted(row for bundle in bundles for row in bundle) == list(range(len(lengths)))
    assert all(0 < lengths[bundle].sum() <= 40 for bundle in bundles)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_every_sample_goes_where_it_leaves_the_least_room(lengths):
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, room in enumerate(rooms) if room >= length]
        best = min(fitting, key=lambda index: rooms[index], default=None)
        if best is None:
            rooms.append(40 - length)
        else:
            rooms[best] -= length
    array = np.array(lengths, dtype=np.int32)
    left = [40 - array[bundle].sum() for bundle in passes(packed(array, 40))]
    assert sorted(left) == sorted(rooms)


@pytest.mark.parametrize("capacity", [256, 2048])
def test_hardly_any_room_is_left(capacity):
    lengths = some_lengths(20_000, capacity)
    assert lengths.sum() > 0.985 * capacity * len(packed(lengths, capacity))


@pytest.mark.parametrize("make", [by_length, packed])
def test_a_pass_bundles_anew_and_a_seed_fixes_it(make):
    bundling = make(some_lengths(500, 200), 200)
    assert passes(bundling, 1) == passes(bundling, 1)
    assert {frozenset(bundle) for bundle in passes(bundling, 1)} != {
        frozenset(bundle) for bundle in passes(bundling, 2)
    }


def test_bundles_by_length_are_of_neighbours():
    lengths = some_lengths(1000, 500)
    bundles = passes(by_length(lengths, 8))
    assert {len(bundle) for bundle in bundles} == {8}
    spread = [lengths[bundle].max() - lengths[bundle].min() for bundle in bundles]
    assert np.median(spread) <= 1


def test_alone_every_sample_is_a_bundle():
    assert sorted(passes(alone(7))) == [[row] for row in range(7)]


def test_a_sample_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match=r"65 tokens and does not fit into a packed row of 64; raise data\."):
        packed(np.array([3, 65], dtype=np.int32), 64)
