"""A checkpoint is complete or absent, and one that was damaged is passed over."""

import logging
import shutil

import pytest

from lit_modules.callbacks.checkpoint_folder import (
    MANIFEST,
    STATE,
    complete,
    flaws,
    latest_checkpoint,
    newest_first,
    read_manifest,
    remove_old,
    sealed,
    step_folder,
)


def write(folder, step, content=b"weights"):
    side = step_folder(folder, step).with_suffix(".tmp")
    (side / "shards").mkdir(parents=True)
    (side / STATE).write_bytes(content)
    (side / "shards/0.bin").write_bytes(b"shard")
    files = sealed([side / STATE, side / "shards/0.bin"], side)
    complete(side, {"step": step, "world_size": 2}, files)


def test_a_completed_folder_holds_and_says_what_it_is(tmp_path):
    write(tmp_path, 3)
    assert list(flaws(step_folder(tmp_path, 3))) == []
    assert read_manifest(step_folder(tmp_path, 3))["world_size"] == 2
    assert latest_checkpoint(tmp_path) == step_folder(tmp_path, 3) / STATE


def test_nothing_saved_is_nothing_to_resume(tmp_path):
    assert latest_checkpoint(tmp_path / "absent") is None


def test_a_folder_that_was_not_completed_does_not_count(tmp_path):
    write(tmp_path, 3)
    (tmp_path / "step-00000004.tmp").mkdir()
    assert [folder.name for folder in newest_first(tmp_path)] == ["step-00000003"]


def flip(file):
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a flipped bit": lambda folder: flip(folder / STATE),
    "a truncated shard": lambda folder: (folder / "shards/0.bin").write_bytes(b"sha"),
    "a missing shard": lambda folder: (folder / "shards/0.bin").unlink(),
    "a missing manifest": lambda folder: (folder / MANIFEST).unlink(),
    "half a manifest": lambda folder: (folder / MANIFEST).write_text('{"step": 4, "fil'),
    "a file nobody vouched for": lambda folder: (folder / "shards/extra.pt").write_bytes(b"x"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_the_log_says_so(tmp_path, caplog, damage):
    write(tmp_path, 3)
    write(tmp_path, 4)
    DAMAGES[damage](step_folder(tmp_path, 4))
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path) == step_folder(tmp_path, 3) / STATE
    assert "step-00000004 is damaged" in caplog.text


@pytest.mark.parametrize("file", [STATE, "shards/0.bin"])
def test_several_ranks_read_each_file_once_between_them(tmp_path, file):
    write(tmp_path, 3)
    flip(step_folder(tmp_path, 3) / file)
    found = [list(flaws(step_folder(tmp_path, 3), rank, 3)) for rank in range(3)]
    assert sorted(map(len, found)) == [0, 0, 1]


def test_what_one_rank_finds_damaged_all_pass_over(tmp_path):
    write(tmp_path, 3)
    write(tmp_path, 4)
    others = {0: [["step-00000004", "step-00000003"]], 1: [["another rank's shard is missing"]], 2: [[]]}
    calls = iter(range(3))
    chosen = latest_checkpoint(tmp_path, 0, 2, lambda mine: [mine, *others[next(calls)]])
    assert chosen == step_folder(tmp_path, 3) / STATE


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    write(tmp_path, 3)
    flip(step_folder(tmp_path, 3) / STATE)
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        latest_checkpoint(tmp_path)


def test_saving_a_step_again_replaces_it(tmp_path):
    write(tmp_path, 3)
    write(tmp_path, 3, b"other")
    assert (step_folder(tmp_path, 3) / STATE).read_bytes() == b"other"
    assert list(flaws(step_folder(tmp_path, 3))) == []


def test_old_and_half_written_folders_are_removed(tmp_path):
    for step in (9, 10, 100):
        write(tmp_path, step)
    (tmp_path / "step-00000101.tmp").mkdir()
    remove_old(tmp_path, 2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    write(tmp_path, 3)
    side = tmp_path / "step-00000004.tmp"
    side.mkdir()
    (side / STATE).symlink_to(tmp_path / "nowhere")
    shutil.copy(step_folder(tmp_path, 3) / STATE, side / "other")
    assert latest_checkpoint(tmp_path) == step_folder(tmp_path, 3) / STATE
