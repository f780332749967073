"""A stream, tokenised a portion at a time, under two real processes that are killed."""

import pytest

from tests.processes import Run, read, recovery

pytestmark = pytest.mark.distributed


@pytest.fixture
def make_run(tmp_path, data):
    def make(name):
        run = Run(tmp_path / name, recovery(tmp_path / "inputs", data / "stories260K", "ddp"))
        run.set("data", portion_size=40, batch_size=1)
        run.set("trainer", max_steps=14)
        del run.config["trainer"]["max_epochs"]
        return run

    return make


def test_a_stream_killed_in_every_portion_ends_bit_for_bit_like_one_that_was_not(make_run):
    whole, run = make_run("whole"), make_run("killed")
    whole.finish()
    for batches in (5, 9, 7):
        kill_after(run, batches)
    run.finish()
    for rank in range(2):
        assert run.counted(rank) == whole.counted(rank)
    assert max(step for step, _, _ in run.counted()) == 13


def kill_after(run, batches):
    """Start, and kill once rank 0 has trained on so many batches."""
    before = len(run.diaries())

    def has_taken():
        files = run.diaries()
        newest = read(files[-1]) if len(files) > before else []
        return sum(entry["event"] == "batch" for entry in newest) >= batches

    run.start()
    assert run.until(has_taken), run.said
    run.kill()
