"""What befalls a chain of jobs on a real SLURM, and that it finishes all the same."""

import itertools
import os
import signal
import time

import pytest

from slurm.attempts import read_attempts
from slurm.folder import JobFolder

pytestmark = pytest.mark.slurm
ALL = list(range(1, 41))


def started(cluster, run, *overrides, steps=15):
    """Submit; return the recovery's and the report's job once so many steps are done."""
    jobs = run.submit(*overrides)
    cluster.until(lambda: len(run.steps) >= steps, f"{steps} steps")
    return jobs["recover"].job, jobs["report"].job


def finished(cluster, run, report):
    """The run is complete, and each later stage was done once, after the last step."""
    assert cluster.wait(report) == "COMPLETED", run.log("recover")
    assert run.trace[0] == "pruned"
    assert run.trace[-2:] == ["40", "measured"]
    assert [line for line in run.trace if not line.isdigit()] == ["pruned", "measured"]
    return run.steps


def resumed(steps):
    """The step before which the run went back, and how far; fails if it did not go back once."""
    falls = [(before, after) for before, after in itertools.pairwise(steps) if after != before + 1]
    assert len(falls) == 1, steps
    return falls[0]


def reasons(run):
    return [each.why for each in read_attempts(JobFolder(run.root).attempts) if each.stage == "recover"]


def test_a_chain_runs_every_stage_once_in_order(cluster, stand_in):
    jobs = stand_in.submit("--slurm.export=[gguf]")
    assert cluster.wait(jobs["report"].job) == "COMPLETED"
    assert stand_in.trace == ["pruned", *map(str, ALL), "measured", "exported gguf"]


def test_a_signal_loses_and_repeats_no_step(cluster, stand_in):
    recover, report = started(cluster, stand_in)
    cluster.signal(recover, "USR1")
    assert finished(cluster, stand_in, report) == ALL
    assert cluster.field(recover, "Restarts") == "1"


def test_a_signal_to_one_rank_stops_all(cluster, stand_in):
    _, report = started(cluster, stand_in)
    os.kill(cluster.tasks(str(stand_in.root))[-1], signal.SIGUSR1)
    assert finished(cluster, stand_in, report) == ALL


def test_a_signal_before_the_handlers_are_there_costs_a_restart_only(cluster, stand_in):
    jobs = stand_in.submit("--fake.start=3")
    cluster.until(lambda: cluster.tasks(str(stand_in.root / "jobs")) and stand_in.trace, "tasks run")
    cluster.until(lambda: cluster.field(jobs["recover"].job, "JobState") == "RUNNING", "recovery runs")
    time.sleep(1.5)
    cluster.signal(jobs["recover"].job, "USR1")
    assert finished(cluster, stand_in, jobs["report"].job) == ALL
    assert "before it could save" in reasons(stand_in)[0]


def test_preemption_with_a_grace_time_loses_and_repeats_no_step(cluster, stand_in):
    _, report = started(cluster, stand_in)
    cluster.preempt(2)
    assert finished(cluster, stand_in, report) == ALL


def test_preemption_without_costs_the_steps_since_the_last_checkpoint(cluster, stand_in):
    cluster.control("update", "PartitionName=main", "GraceTime=0")
    _, report = started(cluster, stand_in, "--fake.deaf=1", "--fake.pace=0.15")
    cluster.preempt(2)
    before, after = resumed(finished(cluster, stand_in, report))
    assert after == before // 10 * 10 + 1


def test_preemption_does_not_count_against_a_run_that_cannot_save(cluster, stand_in):
    jobs = stand_in.submit("--fake.prune=4")
    for number in (1, 2):
        cluster.until(lambda: len(attempts(stand_in)) == number, f"attempt {number}")  # noqa: B023
        time.sleep(1)
        cluster.preempt(1)
    assert finished(cluster, stand_in, jobs["report"].job) == ALL


def attempts(run):
    return read_attempts(JobFolder(run.root).attempts)


def test_a_crashed_node_costs_the_steps_since_the_last_checkpoint(cluster, stand_in):
    recover, report = started(cluster, stand_in)
    cluster.do("kill-node", cluster.other_node(recover))
    before, after = resumed(finished(cluster, stand_in, report))
    assert after == before // 10 * 10 + 1


def test_a_crash_of_the_node_with_the_job_script_is_survived(cluster, stand_in):
    recover, report = started(cluster, stand_in)
    cluster.do("kill-node", cluster.field(recover, "BatchHost"))
    before, after = resumed(finished(cluster, stand_in, report))
    assert after == before // 10 * 10 + 1


def test_a_crash_before_the_first_checkpoint_does_not_end_the_run(cluster, stand_in):
    recover, report = started(cluster, stand_in, steps=3)
    cluster.do("kill-node", cluster.other_node(recover))
    assert resumed(finished(cluster, stand_in, report))[1] == 1


def test_a_frozen_node_is_left_behind(cluster, stand_in):
    recover, report = started(cluster, stand_in, "--fake.pace=0.1")
    cluster.do("freeze-node", cluster.other_node(recover))
    assert cluster.wait(report, timeout=180) == "COMPLETED"
    assert stand_in.steps[-1] == 40


def test_a_killed_task_costs_the_steps_since_the_last_checkpoint(cluster, stand_in):
    _, report = started(cluster, stand_in)
    os.kill(cluster.tasks(str(stand_in.root))[-1], signal.SIGKILL)
    before, after = resumed(finished(cluster, stand_in, report))
    assert after == before // 10 * 10 + 1


@pytest.fixture(scope="module")
def limited(running_cluster, stand_in_at, tmp_path_factory):
    """Three runs whose recovery meets a time limit of a minute, all at once, for it is a long minute."""
    running_cluster.heal()
    pace, deaf = "--fake.pace=0.6", "--fake.deaf=1"
    words = {
        "heeds the signal": [pace, "--slurm.signal_seconds=5"],
        "deaf": ["--fake.pace=1", deaf, "--fake.steps=30"],
        "outruns the limit": [pace, deaf],
    }
    runs = {name: stand_in_at(tmp_path_factory.mktemp("limited")) for name in words}
    jobs = {name: started(running_cluster, runs[name], *words[name], steps=1) for name in words}
    for recover, _ in jobs.values():
        running_cluster.control("update", f"JobId={recover}", "TimeLimit=1")
    for _, report in jobs.values():
        assert running_cluster.wait(report, timeout=240) == "COMPLETED"
    return runs


def test_the_time_limit_is_one_more_attempt(limited):
    assert limited["heeds the signal"].steps == ALL
    assert len(reasons(limited["heeds the signal"])) >= 2


def test_a_run_deaf_to_the_signal_goes_on_after_the_time_limit(limited):
    assert any("time limit" in why for why in reasons(limited["deaf"]))
    assert limited["deaf"].steps[-1] == 30


def test_a_stage_that_completes_beyond_the_time_limit_is_complete(limited):
    assert limited["outruns the limit"].steps == ALL


def test_a_restart_of_the_controller_is_not_noticed(cluster, stand_in):
    _, report = started(cluster, stand_in)
    cluster.control("shutdown", "slurmctld")
    os.kill(cluster.tasks(str(stand_in.root))[-1], signal.SIGUSR1)
    time.sleep(4)
    cluster.do("start-controller")
    assert finished(cluster, stand_in, report) == ALL


def test_a_poisoned_run_ends_within_one_retry_and_takes_its_dependents_along(cluster, stand_in):
    jobs = stand_in.submit("--fake.poison=3")
    assert cluster.wait(jobs["recover"].job) == "FAILED"
    assert cluster.wait(jobs["report"].job) == "CANCELLED"
    assert stand_in.steps == [1, 2, 3, 1, 2, 3]


def test_a_configuration_that_is_gone_ends_the_run_at_once(cluster, stand_in):
    cluster.control("update", "PartitionName=main", "State=DOWN")
    jobs = stand_in.submit()
    for copy in (stand_in.root / "jobs").glob("config-*.yaml"):
        copy.unlink()
    cluster.control("update", "PartitionName=main", "State=UP")
    assert cluster.wait(jobs["prune"].job) == "FAILED"
    assert cluster.wait(jobs["report"].job) == "CANCELLED"
