"""Whoever wrote the shards, any other cut of the same parameters is read from them, or they are refused."""

import itertools
import json
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lit_modules.shards import WEIGHT, Piece, Shards, shard_file

NUMEL = {"first": 13, "second": 1, "third": 40}
WHOLE = {name: torch.randn(numel) for name, numel in NUMEL.items()}


def cut(cuts, start=3):
    """Per rank the pieces of all parameters laid end to end and cut there, behind padding."""
    bounds, ranks = [0, *sorted(cuts), sum(NUMEL.values())], []
    for low, high in itertools.pairwise(bounds):
        pieces, at, offset = [], 0, start
        for name, numel in NUMEL.items():
            first, end = max(low, at), min(high, at + numel)
            if first < end:
                pieces.append(Piece(name, first - at, end - first, 0, offset))
                offset += end - first
            at += numel
        ranks.append((pieces, offset))
    return ranks


def write(folder, ranks):
    for rank, (pieces, size) in enumerate(ranks):
        flat = torch.full((size,), torch.nan)
        for piece in pieces:
            flat[piece.offset : piece.offset + piece.numel] = WHOLE[piece.name][piece.start :][: piece.numel]
        index = json.dumps([asdict(piece) for piece in pieces])
        tensors = {f"{WEIGHT}/0": flat, "exp_avg/0": 2 * flat, "step/0": torch.tensor(5.0)}
        save_file(tensors, shard_file(folder, rank), metadata={"pieces": index})


cuts = st.lists(st.integers(0, sum(NUMEL.values())), max_size=4)


@given(written=cuts, wanted=cuts)
@settings(deadline=None, max_examples=40)
def test_any_cut_is_read_from_any_other(tmp_path_factory, written, wanted):
    folder = tmp_path_factory.mktemp("shards")
    write(folder, cut(written))
    with Shards(folder) as shards:
        for pieces, size in cut(wanted, start=1):
            state = shards.empty_state(torch.empty(size))
            assert state["step"] == 5
            for piece in pieces:
                shards.copy("exp_avg", piece, state["exp_avg"])
                found = state["exp_avg"][piece.offset : piece.offset + piece.numel]
                assert torch.equal(found, 2 * WHOLE[piece.name][piece.start :][: piece.numel])


def test_a_missing_shard_is_named_by_what_it_held(tmp_path):
    write(tmp_path, cut([20]))
    shard_file(tmp_path, 1).unlink()
    with Shards(tmp_path) as shards, pytest.raises(ValueError, match="lacks 34 of 40 elements of third"):
        shards.copy(WEIGHT, Piece("third", 0, 40, 0, 0), torch.empty(40))


def test_a_folder_without_shards_was_not_written_under_deepspeed(tmp_path):
    with pytest.raises(ValueError, match="not written under DeepSpeed"):
        Shards(tmp_path)
