"""SLURM's commands: submit, ask, cancel; what they refuse, said with what the cluster allows."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

UNREACHABLE = ("DNS SRV lookup failed", "Unable to contact slurm controller", "Connection refused")
"""What SLURM's commands say where no controller answers."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job or array task that SLURM knows and has not ended.

    `remaining` is what is left of its time limit; `reason` why it waits, or where it runs.
    """

    job: str
    state: str
    reason: str
    remaining: str
    comment: str


def command(*words: str) -> str:
    """What a SLURM command prints.

    Raises:
        ValueError: SLURM refused; or no controller answers; or it is not installed here.
    """
    if shutil.which(words[0]) is None:
        raise ValueError(f"no {words[0]} on the PATH: run this on a node of the cluster that has SLURM")
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        said = ran.stderr.strip() or f"exit status {ran.returncode}"
        if any(phrase in said for phrase in UNREACHABLE):
            raise ValueError(
                f"no SLURM controller answers here ({words[0]} asked): run this on a login node of the "
                "cluster, or point SLURM_CONF to its slurm.conf"
            )
        raise ValueError(f"{words[0]} refused: {said}{allowed() if words[0] == 'sbatch' else ''}")
    return ran.stdout or ran.stderr


def allowed() -> str:
    """The partitions and what their nodes have, to put an error right."""
    told = subprocess.run(
        ["sinfo", "--noheader", "--format", "%R: %D nodes, %c CPUs, %m MB, %G, time limit %l"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [f"\n  {line.strip()}" for line in told.stdout.splitlines()]
    return f"\nThis cluster has (CPUs, memory and GPUs of a node):{''.join(lines)}" if lines else ""


def submit_job(options: Sequence[str], script: Path, words: Sequence[str]) -> str:
    """Submit and return the job's id."""
    return command("sbatch", "--parsable", *options, str(script), *words).strip().partition(";")[0]


def try_job(script: Path, words: Sequence[str]) -> str:
    """What SLURM says when the job would start; submits nothing."""
    return command("sbatch", "--test-only", str(script), *words).strip()


def queued(jobs: Iterable[str]) -> list[QueuedJob]:
    """Those of `jobs` that wait or run, array tasks one by one."""
    wanted = set(jobs)
    if not wanted:
        return []
    lines = command("squeue", "--noheader", "--array", "--format=%i|%T|%R|%L|%k").splitlines()
    found = [QueuedJob(*line.strip().split("|", 4)) for line in lines]
    return [each for each in found if each.job in wanted or each.job.partition("_")[0] in wanted]


def holder(job: str, run: Path) -> QueuedJob | None:
    """The job that holds `run`, if it lives.

    Ids may start anew: what it said of itself, its run's folder or its sweep's, must fit.
    """
    mine = ("", "(null)", str(run), str(run.parent))
    return next((each for each in queued([job]) if each.comment in mine and each.state != "PENDING"), None)


def cancel_jobs(jobs: Sequence[str]) -> None:
    """End jobs, waiting or running."""
    command("scancel", *jobs)
