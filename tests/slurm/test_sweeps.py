"""Sweeps on a real SLURM: every run for itself, whatever befalls the others."""

from dataclasses import replace

import pytest

from slurm.attempts import read_attempts
from slurm.folder import JobFolder
from slurm.monitor import cancel, status

pytestmark = pytest.mark.slurm


def test_a_sweep_is_one_run_for_every_combination(cluster, stand_in):
    sweep = ["pruner.ratio=0.1,0.2", "model.seed=1,2"]
    jobs = stand_in.submit("--fake.steps=5", sweep=sweep)
    assert cluster.wait(jobs["sweep"].job) in ("COMPLETED", "FAILED")
    runs = sorted(path.parent.name for path in stand_in.root.glob("*/DONE"))
    assert runs == ["ratio=0.1,seed=1", "ratio=0.1,seed=2", "ratio=0.2,seed=1", "ratio=0.2,seed=2"]
    assert "a sweep of 4 runs, 4 complete" in str(status(stand_in.root))
    assert {
        job.what for job in stand_in.submit(sweep=["pruner.ratio=0.1,0.2", "model.seed=1,2"]).values()
    } == {
        "complete",
        "submitted",
    }


def test_a_quick_run_of_a_sweep_does_not_wait_for_a_slow_one(cluster, stand_in):
    stand_in.submit(sweep=["fake.steps=200,3"])
    slow, quick = (stand_in.root / f"steps={steps}" for steps in (200, 3))
    cluster.until((quick / "DONE").exists, "the quick run is complete")
    assert not (slow / "recovered" / "DONE").exists()


def test_a_requeued_run_of_a_sweep_leaves_the_others_alone(cluster, stand_in):
    jobs = stand_in.submit("--fake.pace=0.1", sweep=["model.seed=1,2"])
    runs = [replace(stand_in, root=stand_in.root / f"seed={seed}") for seed in (1, 2)]
    cluster.until(lambda: all(len(run.steps) >= 5 for run in runs), "both are at work")
    cluster.signal(f"{jobs['recover'].job}_1", "USR1")
    cluster.until(lambda: all((run.root / "DONE").exists() for run in runs), "both are complete")
    assert [run.steps for run in runs] == [list(range(1, 41))] * 2
    attempts = [read_attempts(JobFolder(run.root).attempts) for run in runs]
    assert [len([each for each in found if each.stage == "recover"]) for found in attempts] == [1, 2]


def test_cancel_ends_every_run_of_a_sweep(cluster, stand_in):
    jobs = stand_in.submit("--fake.pace=1", sweep=["pruner.ratio=0.1,0.2"])
    cluster.until(lambda: list(stand_in.root.glob("*/trace")), "a run begins")
    assert set(cancel(stand_in.root)) == {job.job for job in jobs.values()}
    cluster.until(lambda: cluster.count_jobs() == 0, "the queue is empty")
    assert "a sweep of 2 runs, 0 complete" in str(status(stand_in.root))
