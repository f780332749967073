"""The order of rows depends on the seed and the position alone."""

import itertools
import threading
import time

import numpy as np
import pytest
import torch

from lit_modules.bundling import alone, by_length, packed
from lit_modules.sampling import Loader, Order, Pick, Share, held_out_picks, training_picks

TARGETS = np.arange(1, 102, dtype=np.int32)
ALONE = alone(101)
LENGTHS = np.random.default_rng(0).integers(3, 60, 101).astype(np.int32)
BUNDLINGS = {"alone": ALONE, "by_length": by_length(LENGTHS, 4), "packed": packed(LENGTHS, 64)}


def consumed(share_of, start, steps, seed=3, bundling=ALONE):
    """Rows of `steps` optimizer steps from `start`, of all ranks in order, and the last position."""
    world = share_of(0).world_size
    streams = [training_picks(Order(bundling, seed), TARGETS, share_of(rank), start) for rank in range(world)]
    rows, position = [], start
    for _ in range(steps * share_of(0).accumulation):
        picks = [next(stream) for stream in streams]
        assert len({pick.position for pick in picks}) == 1
        rows += [row for pick in picks for bundle in pick.bundles for row in bundle.tolist()]
        position = picks[0].position
    return rows, position


def shares(world_size, batch_size, accumulation):
    return lambda rank: Share(batch_size, accumulation, world_size, rank)


@pytest.mark.parametrize("kind", BUNDLINGS)
def test_every_row_is_seen_once_before_any_is_seen_again(kind):
    bundling = BUNDLINGS[kind]
    first, position = consumed(shares(1, 1, 1), 0, len(bundling), bundling=bundling)
    second, _ = consumed(shares(1, 1, 1), position, len(bundling), bundling=bundling)
    assert sorted(first) == sorted(second) == list(range(101))
    assert first != second


@pytest.mark.parametrize("kind", BUNDLINGS)
@pytest.mark.parametrize("start", [0, 8, 96, 160])
def test_any_number_of_ranks_continues_the_same_sequence(start, kind):
    bundling = BUNDLINGS[kind]
    expected, _ = consumed(shares(1, 8, 1), start, 20, bundling=bundling)
    for world, batch, accumulation in [(2, 4, 1), (2, 2, 2), (4, 2, 1), (1, 1, 8)]:
        rows, _ = consumed(shares(world, batch, accumulation), start, 20, bundling=bundling)
        assert rows == expected


@pytest.mark.parametrize("kind", BUNDLINGS)
def test_a_run_that_changes_its_number_of_ranks_sees_nothing_twice(kind):
    bundling = BUNDLINGS[kind]
    first, position = consumed(shares(2, 2, 2), 0, 1, bundling=bundling)
    second, position = consumed(shares(1, 2, 1), position, 3, bundling=bundling)
    third, position = consumed(shares(4, 1, 2), position, 1, bundling=bundling)
    seen = first + second + third
    assert position == 22
    assert len(set(seen)) == len(seen) >= position


def test_the_divisor_makes_the_steps_gradient_a_mean_over_its_tokens():
    for world, batch, accumulation in [(1, 8, 1), (2, 2, 2), (1, 2, 4)]:
        streams = [
            training_picks(Order(ALONE, 0), TARGETS, Share(batch, accumulation, world, rank), 0)
            for rank in range(world)
        ]
        picks = [next(stream) for stream in streams for _ in range(accumulation)]
        tokens = sum(TARGETS[np.concatenate(pick.bundles)].sum() for pick in picks)
        assert {pick.mean_targets for pick in picks} == {tokens / (world * accumulation)}


@pytest.mark.parametrize("world_size", [1, 3])
def test_held_out_rows_are_seen_once_in_equally_many_batches(world_size):
    per_rank = [list(held_out_picks(alone(11), Share(2, 1, world_size, rank))) for rank in range(world_size)]
    assert len({len(picks) for picks in per_rank}) == 1
    rows = [row for picks in per_rank for pick in picks for bundle in pick.bundles for row in bundle.tolist()]
    assert sorted(row for row in rows if row >= 0) == list(range(11))


def as_batch(pick):
    return {"rows": torch.from_numpy(np.concatenate(pick.bundles))}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_asks_where_to_begin_when_the_first_batch_is_due(num_workers):
    begin = {"at": 0}
    loader = Loader(
        lambda: (Pick([np.array([row])], row, 1.0) for row in itertools.count(begin["at"])),
        9,
        as_batch,
        num_workers,
    )
    batches = iter(loader)
    begin["at"] = 5
    assert [next(batches)["rows"].item() for _ in range(3)] == [5, 6, 7]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_leaves_the_random_state_alone(num_workers):
    before = torch.get_rng_state()
    loader = Loader(lambda: held_out_picks(alone(3), Share(1)), 3, as_batch, num_workers)
    assert len(list(loader)) == 3
    assert torch.equal(torch.get_rng_state(), before)


def counted_picks():
    return (Pick([np.array([row])], row, 1.0) for row in range(12))


def collating():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("collate")]


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_batches_come_in_the_order_of_their_picks_whichever_is_ready_first(num_workers):
    def later_ones_sooner(pick):
        time.sleep(0.003 * (3 - pick.position % 4))
        return as_batch(pick)

    loader = Loader(counted_picks, 12, later_ones_sooner, num_workers)
    assert [batch["rows"].item() for batch in loader] == list(range(12))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_that_cannot_be_collated_is_said_where_it_is_due(num_workers):
    def fails_at_five(pick):
        if pick.position == 5:
            raise OSError("the disk is gone")
        return as_batch(pick)

    batches = iter(Loader(counted_picks, 12, fails_at_five, num_workers))
    assert [next(batches)["rows"].item() for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_a_loader_left_midway_leaves_no_thread_behind():
    batches = iter(Loader(counted_picks, 12, as_batch, num_workers=2))
    next(batches)
    assert collating()
    batches.close()
    for _ in range(1000):
        if not collating():
            return
        time.sleep(0.01)
    pytest.fail(f"still there: {collating()}")
