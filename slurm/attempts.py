"""The attempts of a job at its stage: what each achieved, and whether there is another."""

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pruner.run_folder import MARK, RunFolder

SAVED = 85
"""Exit status of a run that a signal stopped after a step, its state saved."""
BY_USR1 = 128 + 10
"""Exit status of a process that the signal reached before it could handle it."""
MAX_IDLE = 2
"""So many attempts in a row without progress end a job."""

Outcome = Literal["done", "requeue", "failed"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: the stages that are complete, and the newest complete checkpoint's step."""

    complete: tuple[str, ...]
    step: int

    def __str__(self) -> str:
        return f"step {self.step}, complete: {', '.join(self.complete) or 'nothing'}"

    def beyond(self, before: "Progress") -> bool:
        """Whether anything was achieved since `before`."""
        return bool(set(self.complete) - set(before.complete)) or self.step > before.step


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a job; the last three are None where it was cut off before it could say.

    `seconds` is the time of day of its begin, `end_seconds` of its end, both in Unix time.
    """

    stage: str
    job: str
    nodes: str
    seconds: float
    before: Progress
    after: Progress | None = None
    end_seconds: float | None = None
    status: int | None = None
    preempted: bool = False
    at_limit: bool = False
    cancelled: bool = False
    why: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped from outside, which says nothing against the run."""
        return self.status in (None, SAVED, BY_USR1) or self.preempted

    @property
    def progressed(self) -> bool:
        """Whether it left more than it found."""
        return self.after is not None and self.after.beyond(self.before)


def done_mark(run: RunFolder, stage: str) -> Path:
    """The file that says that `stage` is complete."""
    folders = {"prune": run.pruned, "recover": run.recovered, "report": run.root}
    return folders[stage] / MARK


def is_done(run: RunFolder, stage: str, formats: Iterable[str] = ()) -> bool:
    """Whether `stage` is complete; the report is when its exports are there too."""
    exported = all((run.root / "export" / name).exists() for name in formats)
    return done_mark(run, stage).exists() and (stage != "report" or exported)


def progress_of(run: RunFolder) -> Progress:
    """Read off the run folder."""
    complete = tuple(stage for stage in ("prune", "recover", "report") if done_mark(run, stage).exists())
    return Progress(complete, newest_step(run))


def newest_step(run: RunFolder) -> int:
    """The step of the newest complete checkpoint; 0 if there is none."""
    steps = [path.name.removeprefix("step-") for path in run.checkpoints.glob("step-*")]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def decide(attempts: Sequence[Attempt], done: bool, max_restarts: int) -> tuple[Outcome, str]:
    """What follows the last of a job's attempts at its stage, and why.

    The DONE file alone is success, whatever the exit status. A job goes on while it gets further; an
    attempt that achieved nothing may be repeated once, for a node can crash before the first checkpoint. The
    time limit is no excuse: what fits into no attempt would be begun for ever.
    """
    if done:
        return "done", "complete"
    last = attempts[-1]
    how = how_it_ended(last)
    if last.cancelled:
        return "failed", how
    if len(attempts) > max_restarts:
        return "failed", f"{how}; {max_restarts} restarts are used up (slurm.max_restarts)"
    if last.interrupted or last.progressed:
        return "requeue", how
    if idle(attempts) >= MAX_IDLE:
        return "failed", f"{how}; {MAX_IDLE} attempts in a row without progress"
    return "requeue", f"{how}, without progress; once more"


def how_it_ended(attempt: Attempt) -> str:
    """In words."""
    if attempt.preempted:
        return "preempted"
    if attempt.cancelled:
        return "cancelled"
    if attempt.at_limit:
        return "ran into the time limit"
    if attempt.status == SAVED:
        return "stopped by a signal, saved"
    if attempt.status == BY_USR1:
        return "stopped by a signal before it could save"
    return f"exit status {attempt.status}"


def idle(attempts: Sequence[Attempt]) -> int:
    """How many of the last attempts failed without progress, in a row; interrupted ones do not count."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.progressed:
            break
        count += not attempt.interrupted
    return count


def record(file: Path, attempt: Attempt) -> None:
    """Append to the run's list; a later line of the same begin replaces the earlier."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(json.dumps(asdict(attempt)) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_attempts(file: Path) -> list[Attempt]:
    """All attempts at a run, in order of their begin; a line cut short by a crash is passed over."""
    found: dict[tuple[str, float], Attempt] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        for name in ("before", "after"):
            if values[name] is not None:
                values[name] = Progress(tuple(values[name]["complete"]), values[name]["step"])
        attempt = Attempt(**values)
        found[attempt.job, attempt.seconds] = attempt
    return list(found.values())


def of_job(attempts: Iterable[Attempt], job: str, stage: str) -> list[Attempt]:
    """Those of one job."""
    return [attempt for attempt in attempts if attempt.job == job and attempt.stage == stage]


def now() -> float:
    """Unix time, to the millisecond."""
    return round(time.time(), 3)
