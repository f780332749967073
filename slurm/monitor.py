"""What a submitted run is doing: read off its folder and the queue, nowhere else."""

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import yaml

from pruner.run_folder import RunFolder
from slurm.attempts import Attempt, Progress, progress_of, read_attempts
from slurm.cluster import QueuedJob, cancel_jobs, queued
from slurm.folder import JobFolder
from slurm.settings import STAGES
from slurm.sweeps import runs_of

log = logging.getLogger(__name__)

LINE = re.compile(r"step (\d+) of (\d+), (.+?) left")
"""What a stage writes to its log now and then."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Of a run and the jobs that work on it; what is not known is None."""

    run_dir: Path
    progress: Progress
    num_steps: int | None
    left: timedelta | None
    loss: float | None
    jobs: dict[str, QueuedJob]
    """stage -> its live job"""
    ids: dict[str, str]
    attempts: tuple[Attempt, ...]
    logs: dict[str, Path]
    """stage -> the log of its last job"""

    @property
    def stage(self) -> str:
        """The first stage that is not complete; "complete" if none is left."""
        return next((stage for stage in STAGES if stage not in self.progress.complete), "complete")

    def __str__(self) -> str:
        return "\n".join(describe(self))


def status(run_dir: Path) -> RunStatus:
    """How far the run or the sweep in `run_dir` is; raises ValueError if there is none."""
    run, folder = RunFolder(run_dir.resolve()), JobFolder(run_dir.resolve())
    folder.require()
    ids = {stage: str(known["job"]) for stage, known in folder.read_ids().items()}
    try:
        jobs = [job for job in queued(ids.values()) if job.comment == str(run.root)]
        there = {job.job.partition("_")[0]: job for job in jobs}
    except ValueError as error:
        log.warning("%s", error)
        there = {}
    logs = {stage: Path(str(folder.log(stage)).replace("%j", job)) for stage, job in ids.items()}
    num_steps, left = announced(logs.get("recover"))
    return RunStatus(
        run.root,
        progress_of(run),
        num_steps or configured_steps(run),
        left,
        last_loss(run),
        {stage: there[job] for stage, job in ids.items() if job in there},
        ids,
        tuple(read_attempts(folder.attempts)),
        logs,
    )


def announced(log: Path | None) -> tuple[int | None, timedelta | None]:
    """How many steps there are and how long they take yet, as the recovery last wrote into its log."""
    if log is None or not log.exists() or not (found := LINE.findall(log.read_text(errors="replace"))):
        return None, None
    _, total, left = found[-1]
    return int(total), parse_duration(left)


def parse_duration(text: str) -> timedelta | None:
    """What `str` made of a timedelta (1 day, 2:03:04)."""
    found = re.fullmatch(r"(?:(\d+) days?, )?(\d+):(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def configured_steps(run: RunFolder) -> int | None:
    """`trainer.max_steps` of the run's configuration, where it sets one."""
    if not run.config.exists():
        return None
    steps = ((yaml.safe_load(run.config.read_text()) or {}).get("trainer") or {}).get("max_steps")
    return int(steps) if steps and int(steps) > 0 else None


def last_loss(run: RunFolder) -> float | None:
    """The newest training loss in the CSV logs."""
    files = sorted(run.logs.rglob("metrics.csv"), key=lambda file: file.stat().st_mtime)
    for file in reversed(files):
        with file.open(newline="") as stream:
            losses = [row["loss"] for row in csv.DictReader(stream) if row.get("loss")]
        if losses:
            return float(losses[-1])
    return None


def describe(known: RunStatus) -> Iterator[str]:
    """Yield the status, line by line, for people."""
    of = f" of {known.num_steps}" if known.num_steps else ""
    if runs := runs_of(known.run_dir):
        yield from describe_sweep(known, runs)
        return
    yield f"{known.run_dir}: {known.stage}, step {known.progress.step}{of} saved"
    if known.stage == "recover" and known.left is not None:
        yield f"  about {known.left} left when it last said so"
    if known.loss is not None:
        yield f"  last loss {known.loss:.4f}"
    for stage in STAGES:
        yield f"  {stage:<8} {describe_stage(known, stage)}"
        for attempt in known.attempts:
            if attempt.stage == stage:
                yield f"             {describe_attempt(attempt)}"


def describe_sweep(known: RunStatus, runs: Sequence[Path]) -> Iterator[str]:
    """Yield a line for every run of a sweep, then one for each of the arrays that still have tasks."""
    reached = {run: progress_of(RunFolder(run)) for run in runs}
    complete = sum("report" in each.complete for each in reached.values())
    yield f"{known.run_dir}: a sweep of {len(runs)} runs, {complete} complete"
    for run, progress in reached.items():
        yield f"  {run.name}: {progress}"
    for stage, job in known.jobs.items():
        yield f"  {stage:<8} job {job.job.partition('_')[0]} {job.state.lower()} {job.reason}"


def describe_stage(known: RunStatus, stage: str) -> str:
    """Where a stage is, and where its log lies."""
    log = f"; log {known.logs[stage]}" if stage in known.logs and known.logs[stage].exists() else ""
    if stage in known.progress.complete:
        return f"complete{log}"
    if job := known.jobs.get(stage):
        return f"job {job.job} {job.state.lower()} {job.reason}, {job.remaining} left of this attempt{log}"
    if stage in known.ids:
        if not log and stage == known.stage:
            log = f"; no log: it was cancelled before it began, or its node does not see {known.run_dir}"
        return f"job {known.ids[stage]} ended without completing it; submit again to go on{log}"
    return "not submitted"


def describe_attempt(attempt: Attempt) -> str:
    """One start: when, where, how far, and why it ended."""
    began = datetime.fromtimestamp(attempt.seconds).strftime("%d %b %H:%M:%S")
    reached = f"step {attempt.before.step}" + (f" -> {attempt.after.step}" if attempt.after else " ->")
    return f"{began} on {attempt.nodes}: {reached}; {attempt.why or 'under way, or cut off'}"


def cancel(run_dir: Path) -> list[str]:
    """End the jobs of a run or a sweep, the last stage's first; returns their ids. What is saved stays."""
    folder = JobFolder(run_dir.resolve())
    folder.require()
    known = {stage: str(entry["job"]) for stage, entry in folder.read_ids().items()}
    there = {job.job.partition("_")[0] for job in queued(known.values()) if job.comment == str(folder.run)}
    ids = [known[stage] for stage in (*reversed(STAGES), "sweep") if known.get(stage) in there]
    if ids:
        cancel_jobs(ids)
    return ids
