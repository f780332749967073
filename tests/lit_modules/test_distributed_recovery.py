"""Two real processes: the same laws as in one, and SIGKILL at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("fit_process.py")

pytestmark = pytest.mark.distributed


class Run:
    """A recovery in processes of its own, with a folder that outlives them."""

    def __init__(self, folder, model, records, *, world_size=2, accumulation=2, strategy="ddp", lora=True):
        folder.mkdir()
        self.folder = folder
        self.settings = {
            "folder": str(folder),
            "model": model,
            "lora": lora,
            "data": {
                "path": records,
                "template": "Q: {instruction} {input}\nA: {response}",
                "max_length": 128,
                "batch_size": 2,
                "validation_share": 0.2,
                "num_workers": 1,
                "cache_dir": str(folder.parent / "cache"),
            },
            "trainer": {"max_epochs": 3, "val_check_interval": 2 * accumulation},
        }
        self.layout(world_size, accumulation, strategy)

    def layout(self, world_size, accumulation, strategy="ddp"):
        self.settings["trainer"] |= {
            "devices": world_size,
            "accumulate_grad_batches": accumulation,
            "strategy": strategy if world_size > 1 else "auto",
            "val_check_interval": 2 * accumulation,
        }

    def start(self):
        file = self.folder / "settings.json"
        file.write_text(json.dumps(self.settings))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        output = (self.folder / "output.txt").open("a")
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(file)],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def finish(self):
        assert self.end(self.start()) == 0, self.said

    def end(self, process):
        """Its exit code; one that hangs is made to say where, as are its children, and fails the test."""
        try:
            return process.wait(timeout=240)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)
            process.wait()
            pytest.fail(f"hung:\n{self.said}")

    @property
    def said(self):
        return (self.folder / "output.txt").read_text()[-20_000:]

    def kill_after(self, num_batches, number=signal.SIGKILL):
        """Start, wait until rank 0 has trained that many batches in this start, and send a signal."""
        before = set(self.diaries(0))
        process = self.start()
        while process.poll() is None:
            fresh = [file for file in self.diaries(0) if file not in before]
            if fresh and len(fresh[0].read_text().splitlines()) >= num_batches:
                break
            time.sleep(0.005)
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        return self.end(process)

    def diaries(self, rank):
        return sorted((self.folder / "diary").glob(f"rank{rank}-*"))

    def counted(self, rank=0):
        """The batches that count: of each start those before the step at which the next one began."""
        kept = []
        for file in self.diaries(rank):
            entries = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
            kept = [entry for entry in kept if entries and entry["step"] < entries[0]["step"]] + entries
        return [(entry["step"], entry["rows"], entry["loss"]) for entry in kept]

    def rows_by_step(self):
        """Optimizer step -> the rows that all ranks together took in it."""
        taken = {}
        for rank in range(2):
            for step, rows, _ in self.counted(rank):
                taken.setdefault(step, []).extend(rows)
        return {step: sorted(rows) for step, rows in taken.items()}

    def weights(self):
        return torch.load(self.folder / "weights.pt", weights_only=True)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory, stories, records_file):
    folder = tmp_path_factory.mktemp("runs")
    return lambda name, **settings: Run(folder / name, stories, records_file, **settings)


@pytest.fixture(scope="module")
def whole(make_run):
    run = make_run("whole")
    run.finish()
    return run


def test_two_ranks_killed_again_and_again_end_bit_for_bit_like_two_that_were_not(make_run, whole):
    run = make_run("killed")
    for num_batches in (1, 7, 9):
        run.kill_after(num_batches)
    run.finish()
    for rank in range(2):
        assert run.counted(rank) == whole.counted(rank)
    weights = run.weights()
    assert all(torch.equal(weights[name], value) for name, value in whole.weights().items())


def test_a_signal_to_one_rank_stops_both_with_exit_code_85_and_nothing_is_lost(make_run, whole):
    run = make_run("signalled")
    assert run.kill_after(5, signal.SIGUSR1) == 85
    run.finish()
    for rank in range(2):
        assert run.counted(rank) == whole.counted(rank)


def test_one_rank_takes_over_from_two_and_gives_back_without_a_row_lost_or_repeated(make_run, whole):
    run = make_run("changed")
    run.kill_after(5, signal.SIGTERM)
    run.layout(world_size=1, accumulation=4)
    run.kill_after(10, signal.SIGTERM)
    run.layout(world_size=2, accumulation=2)
    run.finish()
    assert run.rows_by_step() == whole.rows_by_step()


def test_a_bad_record_ends_every_rank_at_once(make_run, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": "a", "output": ""}\n')
    run = make_run("bad")
    run.settings["data"]["path"] = str(bad)
    start = time.perf_counter()
    assert run.end(run.start()) != 0
    assert time.perf_counter() - start < 60
    assert "bad.jsonl:1: the field output is empty" in run.said
