"""What needs no cluster: decisions on attempts, arguments, settings, sweeps, and errors in plain words."""

import getpass
import os
import re
from datetime import datetime
from pathlib import Path

import pytest

from pruner.run_folder import RunFolder
from slurm.attempts import BY_USR1, SAVED, Attempt, Progress, decide, read_attempts, record
from slurm.cluster import command
from slurm.configuration import Arguments, parse_arguments, read_configuration
from slurm.folder import JobFolder
from slurm.job import Cause, cause
from slurm.monitor import cancel, parse_duration, status
from slurm.preflight import folder_lacks
from slurm.refusals import check_place, check_time_limit, checkpoint_interval, seconds_per_step
from slurm.settings import Resources, Site, Slurm, from_mapping, sbatch_options, seconds
from slurm.sweeps import points, runs_of, tasks_of


def attempt(status, before=0, after=0, **others):
    times = {"seconds": 100.0, "end_seconds": 200.0}
    reached = None if after is None else Progress((), after)
    return Attempt(
        "recover", "7", "node1", before=Progress((), before), after=reached, status=status, **times, **others
    )


@pytest.mark.parametrize(
    "attempts, done, outcome",
    [
        ([attempt(143)], True, "done"),
        ([attempt(0)], False, "requeue"),
        ([attempt(1)], False, "requeue"),
        ([attempt(1), attempt(1)], False, "failed"),
        ([attempt(1), attempt(SAVED, 0, 5), attempt(1, 5, 5)], False, "requeue"),
        ([attempt(1), attempt(BY_USR1), attempt(1)], False, "failed"),
        ([attempt(143, preempted=True)] * 5, False, "requeue"),
        ([attempt(143, 0, 5, at_limit=True), attempt(143, 5, 5, at_limit=True)], False, "requeue"),
        ([attempt(143, at_limit=True)] * 2, False, "failed"),
        ([attempt(143, 0, 5, cancelled=True)], False, "failed"),
        ([attempt(1), attempt(1, 0, 9)], False, "requeue"),
        ([attempt(SAVED, n, n + 1) for n in range(4)], False, "failed"),
    ],
)
def test_a_job_goes_on_while_it_gets_further(attempts, done, outcome):
    restarts = 3 if len(attempts) == 4 else 50
    assert decide(attempts, done, restarts)[0] == outcome


TOLD = """   JobState={state} Reason={reason} Dependency=(null)
   RunTime=00:01:00 TimeLimit={limit} TimeMin=N/A
   StartTime=2026-11-23T10:00:00 EndTime=2026-11-23T10:{end} Deadline=N/A
   PreemptEligibleTime=2026-11-23T10:00:00 PreemptTime={preempted}"""


@pytest.mark.parametrize(
    "state, reason, limit, end, preempted, expected",
    [
        ("RUNNING", "None", "00:05:00", "05:00", "None", Cause()),
        ("COMPLETING", "None", "00:05:00", "01:00", "None", Cause(cancelled=True)),
        ("COMPLETING", "None", "UNLIMITED", "01:00", "None", Cause(cancelled=True)),
        ("RUNNING", "None", "00:01:00", "01:00", "None", Cause(at_limit=True)),
        ("COMPLETING", "TimeLimit", "00:01:00", "01:20", "None", Cause(at_limit=True)),
        ("RUNNING", "None", "1-00:00:00", "01:00", "2026-11-23T10:00:50", Cause(preempted=True)),
    ],
)
def test_a_cancelled_job_is_told_from_one_whose_time_is_over(state, reason, limit, end, preempted, expected):
    told = TOLD.format(state=state, reason=reason, limit=limit, end=end, preempted=preempted)
    assert cause(told, datetime(2026, 11, 23, 10, 1, 30)) == expected


def test_attempts_survive_a_line_that_a_crash_cut_short(tmp_path):
    file = tmp_path / "jobs" / "attempts.jsonl"
    record(file, attempt(SAVED, 0, 5))
    with file.open("a") as stream:
        stream.write('{"stage": "rec')
    assert read_attempts(file) == [attempt(SAVED, 0, 5)]


@pytest.mark.parametrize(
    "text, expected",
    [("30", 1800), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86400), ("1-2:30", 95400), ("1-2:30:15", 95415)],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1-"])
def test_what_is_no_time_limit_is_refused(text):
    with pytest.raises(ValueError, match="H:MM:SS"):
        seconds(text)


def test_a_number_that_yaml_made_of_a_time_limit_is_refused():
    with pytest.raises(ValueError, match="quote the time limit"):
        Resources(time=14400)


def test_arguments_are_read_with_and_without_equals_signs(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("model: {seed: 1, rate: 2}")
    expected = Arguments((config,), ("--model.seed=3",))
    assert parse_arguments([str(config), "--model.seed", "3"]) == expected
    assert parse_arguments([f"--config={config}", "--model.seed=3"]) == expected
    assert read_configuration(expected) == {"model": {"seed": 3, "rate": 2}}


def test_a_missing_configuration_and_a_missing_value_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no configuration file gone\.yaml"):
        parse_arguments(["gone.yaml"])
    with pytest.raises(ValueError, match="--run_dir needs a value"):
        parse_arguments(["--run_dir"])


def test_a_sweep_is_the_product_of_its_axes(tmp_path):
    axes = ["pruner.budget.ratio=0.1,0.2", "model.seed=1,2"]
    assert len(points(axes)) == 4
    tasks = tasks_of(["a.yaml"], axes, tmp_path)
    assert tasks[1] == [
        "a.yaml",
        "--pruner.budget.ratio=0.1",
        "--model.seed=2",
        f"--run_dir={tmp_path / 'ratio=0.1,seed=2'}",
    ]
    assert runs_of(tmp_path) == []


@pytest.mark.parametrize("axis", ["ratio", "ratio=", "ratio=0.1,,0.2"])
def test_a_sweep_without_values_is_refused(axis):
    with pytest.raises(ValueError, match="KEY=VALUE,VALUE"):
        points([axis])


def test_a_stage_overrides_its_site():
    site = Site(partition="cpu", account="lab")
    options = list(sbatch_options("recover", Resources(partition="gpu", gpus_per_node=4), Slurm(), site))
    assert {"--partition=gpu", "--account=lab", "--ntasks-per-node=4", "--gpus-per-node=4"} <= set(options)


def test_a_setting_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"slurm.recover has no 'node'; it has nodes"):
        from_mapping(Slurm, {"recover": {"node": 2}}, "slurm")


def test_a_time_limit_shorter_than_a_checkpoint_interval_is_refused_once_the_pace_is_known(tmp_path):
    folder, slurm = JobFolder(tmp_path), Slurm(recover=Resources(time="10:00"))
    check_time_limit(folder, slurm, 100)
    record(folder.attempts, attempt(SAVED, 0, 20))
    assert seconds_per_step(read_attempts(folder.attempts)) == 5
    with pytest.raises(ValueError, match="shorter than one checkpoint interval: 100 steps take about 500 s"):
        check_time_limit(folder, slurm, 100)
    check_time_limit(folder, slurm, 90)


def test_the_checkpoint_interval_of_a_run_that_was_not_told_is_that_of_its_resolved_configuration(tmp_path):
    run = RunFolder(tmp_path)
    assert checkpoint_interval({}, run) is None
    run.config.write_text("checkpointing: {every_steps: 100}")
    assert checkpoint_interval({}, run) == 100
    assert checkpoint_interval({"checkpointing": {"every_steps": 7}}, run) == 7


@pytest.mark.parametrize("place", ["/dev/shm/run", "/local/me/run"])
def test_a_run_folder_on_one_nodes_own_disk_is_refused(place):
    with pytest.raises(ValueError, match=r"run_dir .*, which every node has for itself"):
        check_place(Path(place), Site(scratch="/local"))
    check_place(Path("/shared/local/run"), Site(scratch="/local"))


@pytest.mark.parametrize("ask", [status, cancel])
def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path, ask):
    with pytest.raises(ValueError, match=r"holds no run \(neither config.yaml nor jobs.json\)"):
        ask(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        ask(tmp_path / "gone")


def test_a_second_submission_is_refused_with_the_name_of_the_first(tmp_path):
    folder = JobFolder(tmp_path)
    refusal = rf"by {re.escape(getpass.getuser())}, process {os.getpid()} on .*; if that is over, remove"
    with folder.locked(), pytest.raises(ValueError, match=refusal), folder.locked():
        pass
    with folder.locked():
        pass


def test_the_time_left_is_read_as_it_was_written():
    assert parse_duration("1 day, 2:03:04").total_seconds() == 93784
    assert parse_duration("soon") is None


def test_preflight_names_a_folder_that_cannot_be_written_and_a_full_disk(tmp_path):
    assert list(folder_lacks(tmp_path, 0)) == []
    assert "it must be there on every node" in next(folder_lacks(tmp_path / "gone", 0))
    assert "free_disk_gb" in next(folder_lacks(tmp_path, 1e9))
    assert not list(tmp_path.iterdir())


def commands(folder: Path, said: str) -> str:
    """A PATH on which sbatch fails so."""
    script = folder / "sbatch"
    script.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    script.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_no_controller_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", commands(tmp_path, "sbatch: error: fetch_config: DNS SRV lookup failed"))
    with pytest.raises(ValueError, match=r"^no SLURM controller answers here \(sbatch asked\).*$") as raised:
        command("sbatch", "x")
    assert "\n" not in str(raised.value)


def test_a_cluster_without_slurm_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="no sbatch on the PATH"):
        command("sbatch", "x")
