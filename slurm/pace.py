"""How fast a run was on this cluster, and whether an attempt is long enough for it."""

from collections.abc import Iterable

from slurm.attempts import Attempt, read_attempts
from slurm.folder import JobFolder
from slurm.settings import START_SECONDS, Slurm, seconds


def seconds_per_step(attempts: Iterable[Attempt]) -> float | None:
    """Of the newest recovery that got further, its start included; None if none did."""
    for attempt in reversed(list(attempts)):
        if attempt.stage != "recover" or attempt.after is None or attempt.end_seconds is None:
            continue
        if (steps := attempt.after.step - attempt.before.step) > 0:
            return (attempt.end_seconds - attempt.seconds) / steps
    return None


def too_short(folder: JobFolder, slurm: Slurm, every_steps: int) -> str | None:
    """What to say if an attempt ends before the first checkpoint; None if not, or if no pace is known.

    Args:
        folder: where the run's earlier attempts are kept.
        slurm: its time limits.
        every_steps: optimizer steps from one checkpoint to the next.
    """
    pace, limit = seconds_per_step(read_attempts(folder.attempts)), slurm.recover.time
    if pace is None or seconds(limit) - slurm.signal_seconds - START_SECONDS >= pace * every_steps:
        return None
    return (
        f"slurm.recover.time {limit} is shorter than one checkpoint interval: {every_steps} steps took about "
        f"{pace * every_steps:.0f} s; a crash would lose the whole attempt. Give it more time, or lower "
        "checkpointing.every_steps"
    )
