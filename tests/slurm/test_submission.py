"""What a submission makes, and what it refuses, on a real SLURM."""

import json
import os
import re
import subprocess
import threading
from dataclasses import replace

import pytest

from slurm.folder import JobFolder
from slurm.monitor import cancel, status

pytestmark = pytest.mark.slurm


def test_submitting_again_attaches_to_the_jobs_there_are(cluster, stand_in):
    first = stand_in.submit("--fake.prune=5")
    again = stand_in.submit("--fake.prune=5")
    assert {job.what for job in again.values()} == {"attached"}
    assert {job.job for job in again.values()} == {job.job for job in first.values()}
    assert cluster.count_jobs() == 3


def test_submitting_again_goes_on_where_a_run_failed(cluster, stand_in):
    failed = stand_in.submit("--fake.poison=13")
    assert cluster.wait(failed["report"].job) == "CANCELLED"
    jobs = stand_in.submit()
    assert [jobs[stage].what for stage in ("prune", "recover", "report")] == [
        "complete",
        "submitted",
        "submitted",
    ]
    assert cluster.wait(jobs["report"].job) == "COMPLETED"
    assert stand_in.steps[-30:] == list(range(11, 41))


def test_a_run_folder_may_have_a_space_in_its_name(cluster, stand_in):
    run = replace(stand_in, root=stand_in.root.with_name("my run"))
    assert cluster.wait(run.submit("--fake.steps=2", f"--run_dir={run.root}")["report"].job) == "COMPLETED"
    assert run.log("recover")


def test_a_complete_run_gets_no_job(cluster, stand_in):
    cluster.wait(stand_in.submit("--fake.steps=2")["report"].job)
    assert {job.what for job in stand_in.submit().values()} == {"complete"}
    assert cluster.count_jobs() == 0


def test_two_submissions_at_once_make_one_chain(cluster, stand_in):
    refused, made = [], []

    def attempt():
        try:
            made.append(stand_in.submit("--fake.prune=5"))
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cluster.count_jobs() == 3
    assert made
    assert all(str(os.getpid()) in reason and "lock" in reason for reason in refused)


def test_a_lock_left_by_a_dead_process_is_taken_over(cluster, stand_in):
    gone = subprocess.Popen(["true"])
    gone.wait()
    lock = JobFolder(stand_in.root).root / "lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps({"user": "x", "host": os.uname().nodename, "pid": gone.pid}))
    assert stand_in.submit()["prune"].what == "submitted"


def test_an_edit_of_the_checkout_does_not_reach_a_queued_job(cluster, stand_in):
    jobs = stand_in.submit("--fake.prune=2", "--fake.steps=5")
    (stand_in.project / "cli.py").write_text("raise SystemExit('edited')")
    stand_in.config.write_text("run_dir: elsewhere")
    assert cluster.wait(jobs["report"].job) == "COMPLETED"


def test_a_dry_run_shows_the_scripts_and_leaves_nothing(cluster, stand_in):
    jobs = stand_in.submit(dry_run=True)
    assert "#SBATCH --nodes=2" in jobs["recover"].text
    assert "to start at" in jobs["recover"].text
    assert cluster.count_jobs() == 0
    assert not stand_in.root.exists()


def test_a_script_works_by_hand(cluster, stand_in):
    words = ["sbatch", "--parsable", "--nodes=2", "--mem=100M", "--output=/dev/null", "slurm/recover.sbatch"]
    job = subprocess.run(
        [*words, stand_in.config, "--fake.steps=12"], cwd=stand_in.project, capture_output=True, text=True
    ).stdout.strip()
    assert cluster.wait(job) == "COMPLETED"
    assert stand_in.steps == list(range(1, 13))


def test_a_second_job_keeps_out_of_a_run_that_is_worked_on(cluster, stand_in):
    jobs = stand_in.submit("--fake.prune=5")
    cluster.until(lambda: (stand_in.root / "jobs" / "owner").exists(), "the first begins")
    words = ["sbatch", "--parsable", "--mem=100M", f"--output={stand_in.root}/hand.log", "slurm/prune.sbatch"]
    job = subprocess.run(
        [*words, stand_in.config], cwd=stand_in.project, capture_output=True, text=True
    ).stdout.strip()
    assert cluster.wait(job) == "FAILED"
    assert f"job {jobs['prune'].job} is at work" in (stand_in.root / "hand.log").read_text()


@pytest.mark.parametrize(
    "override, said",
    [
        ("--slurm.recover.partition=gold", r"invalid partition.*main: 3 nodes"),
        ("--slurm.recover.gpus_per_node=9", r"not available.*gpu:8"),
        ("--slurm.recover.time='2:00'", r"slurm.recover.time 2:00 leaves no time to work"),
        ("--run_dir=/dev/shm/run", r"run_dir /dev/shm/run .* every node has for itself"),
        ("--slurm.recover.node=2", r"slurm.recover has no 'node'; it has nodes, gpus_per_node"),
    ],
)
def test_what_the_cluster_cannot_give_is_refused_with_what_it_can(cluster, stand_in, override, said):
    with pytest.raises(ValueError, match=re.compile(said, re.DOTALL | re.IGNORECASE)):
        stand_in.submit(override)
    assert cluster.count_jobs() == 0


def test_a_run_folder_that_a_node_does_not_see_ends_the_job_naming_the_node(cluster, stand_in):
    jobs = stand_in.submit()
    for node in ("node2", "node3"):
        cluster.hide(node, stand_in.root)
    assert cluster.wait(jobs["recover"].job) == "FAILED"
    assert "node2: task 1" in stand_in.log("recover")


def test_a_run_folder_that_the_first_node_does_not_see_is_told_by_the_status(cluster, stand_in):
    cluster.control("update", "PartitionName=main", "State=DOWN")
    jobs = stand_in.submit()
    for node in ("node1", "node2", "node3"):
        cluster.hide(node, stand_in.root)
    cluster.control("update", "PartitionName=main", "State=UP")
    assert cluster.wait(jobs["prune"].job) == "FAILED"
    assert f"no log: it was cancelled before it began, or its node does not see {stand_in.root}" in str(
        status(stand_in.root)
    )


def test_preflight_names_the_node_that_lacks_something(cluster, stand_in, tmp_path):
    scratch, site = tmp_path / "local" / "scratch", tmp_path / "site.yaml"
    scratch.mkdir(parents=True)
    site.write_text(f"scratch: {scratch}")
    for node in ("node2", "node3"):
        cluster.hide(node, scratch.parent)
    jobs = stand_in.submit("--slurm.preflight=true", f"--slurm.site={site}")
    assert cluster.wait(jobs["recover"].job) == "FAILED"
    said = stand_in.log("recover")
    assert f"preflight: node2: cannot write to {scratch}" in said
    assert "preflight: node1" not in said
    assert not stand_in.steps


def test_preflight_lets_two_good_nodes_work(cluster, stand_in):
    jobs = stand_in.submit("--slurm.preflight=true", "--fake.steps=3")
    assert cluster.wait(jobs["recover"].job) == "COMPLETED", stand_in.log("recover")


def test_a_time_limit_shorter_than_a_checkpoint_interval_is_refused_by_the_pace_of_the_last_attempt(
    cluster, stand_in
):
    failed = stand_in.submit("--fake.poison=13")
    assert cluster.wait(failed["report"].job) == "CANCELLED"
    before = cluster.count_jobs()
    with pytest.raises(ValueError, match="shorter than one checkpoint interval: 100000 steps take about"):
        stand_in.submit("--checkpointing.every_steps=100000")
    assert cluster.count_jobs() == before


def test_the_status_tells_where_a_run_is_and_why_it_restarted(cluster, stand_in):
    jobs = stand_in.submit()
    cluster.until(lambda: len(stand_in.steps) >= 15, "15 steps")
    assert status(stand_in.root).stage == "recover"
    assert f"job {jobs['recover'].job} running node" in str(status(stand_in.root))
    cluster.signal(jobs["recover"].job, "USR1")
    assert cluster.wait(jobs["report"].job) == "COMPLETED"
    told = str(status(stand_in.root))
    assert "complete, step 40" in told
    assert "requeue: recover: stopped by a signal, saved" in told


def test_cancel_ends_every_job_of_a_run(cluster, stand_in):
    jobs = stand_in.submit("--fake.pace=1")
    cluster.until(lambda: stand_in.steps, "a step")
    assert sorted(cancel(stand_in.root)) == sorted([jobs["recover"].job, jobs["report"].job])
    assert cluster.wait(jobs["recover"].job) == "CANCELLED"
    assert not status(stand_in.root).jobs
