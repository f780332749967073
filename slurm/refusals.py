"""What a submission refuses before anything is queued, beyond what sbatch itself refuses."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pruner.run_folder import RunFolder
from slurm.attempts import Attempt, is_done, read_attempts
from slurm.folder import JobFolder
from slurm.settings import START_SECONDS, Site, Slurm, seconds

IN_MEMORY = "/dev/shm"


def check_place(run: Path, site: Site) -> None:
    """Raise ValueError if `run` lies where one node alone sees it."""
    for own in filter(None, (site.scratch, IN_MEMORY)):
        if run.is_relative_to(own):
            raise ValueError(
                f"run_dir {run} lies under {own}, which every node has for itself: the jobs would not find "
                "it. Choose a run_dir on a file system that all nodes share"
            )


def check_time_limit(folder: JobFolder, slurm: Slurm, every_steps: int | None) -> None:
    """Raise ValueError if an attempt at the recovery would end before its first checkpoint.

    Args:
        folder: where the run's earlier attempts are kept; without one no pace is known, and nothing refused.
        slurm: its time limits.
        every_steps: optimizer steps from one checkpoint to the next; None if not known yet.
    """
    pace, limit = seconds_per_step(read_attempts(folder.attempts)), slurm.recover.time
    if pace is None or every_steps is None or is_done(RunFolder(folder.run), "recover"):
        return
    if seconds(limit) - slurm.signal_seconds - START_SECONDS < pace * every_steps:
        raise ValueError(
            f"slurm.recover.time {limit} is shorter than one checkpoint interval: {every_steps} steps take "
            f"about {pace * every_steps:.0f} s here, so a crash would lose the whole attempt. Give it more "
            "time, or lower checkpointing.every_steps"
        )


def checkpoint_interval(configuration: Mapping[str, Any], run: RunFolder) -> int | None:
    """`checkpointing.every_steps` as given, else as the run's own configuration has it, defaults included."""
    resolved = yaml.safe_load(run.config.read_text()) if run.config.exists() else {}
    for each in (configuration, resolved):
        if steps := (each.get("checkpointing") or {}).get("every_steps"):
            return int(steps)
    return None


def seconds_per_step(attempts: Iterable[Attempt]) -> float | None:
    """Of the newest recovery that got further, its start included; None if none did."""
    for attempt in reversed(list(attempts)):
        if attempt.stage != "recover" or attempt.after is None or attempt.end_seconds is None:
            continue
        if (steps := attempt.after.step - attempt.before.step) > 0:
            return (attempt.end_seconds - attempt.seconds) / steps
    return None
