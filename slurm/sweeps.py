"""Sweeps: one run for every combination of some settings, as job arrays, and one report over all."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

TASKS = "sweep.json"
"""In a sweep's jobs folder: the words of every task of its arrays, in order."""


def points(sweep: Sequence[str]) -> list[dict[str, str]]:
    """Every combination of `KEY=VALUE,VALUE,…`; raises ValueError where one has no values."""
    axes = []
    for each in sweep:
        name, equals, values = each.partition("=")
        if not equals or not all(values.split(",")):
            raise ValueError(f"a sweep is KEY=VALUE,VALUE,… (pruner.budget.ratio=0.1,0.2), got {each!r}")
        axes.append([(name.removeprefix("--"), value) for value in values.split(",")])
    return [dict(combination) for combination in itertools.product(*axes)]


def label(point: dict[str, str]) -> str:
    """The name of a point's run folder: the last part of every setting, and its value."""
    parts = [f"{name.rpartition('.')[2]}={value}" for name, value in point.items()]
    return ",".join(parts).replace("/", "_")


def tasks_of(words: Sequence[str], sweep: Sequence[str], root: Path) -> list[list[str]]:
    """The words of every point's run, its folder under `root`."""
    return [
        [*words, *(f"--{name}={value}" for name, value in point.items()), f"--run_dir={root / label(point)}"]
        for point in points(sweep)
    ]


def runs_of(root: Path) -> list[Path]:
    """The run folders of the sweep at `root`, in the order of its tasks; none if it is no sweep."""
    tasks = root / "jobs" / TASKS
    if not tasks.exists():
        return []
    return [Path(words[-1].removeprefix("--run_dir=")) for words in json.loads(tasks.read_text())]


def arguments_of_task(words: Sequence[str], task: str | None) -> list[str]:
    """The words of one task of a job array, from the file that lists them; of another job, as they are."""
    if task is None or len(words) != 1 or not words[0].endswith(".json"):
        return list(words)
    listed: list[list[str]] = json.loads(Path(words[0]).read_text())
    return listed[int(task)]


def summarise(words: Sequence[str]) -> int:
    """Lay the measurements of all of a sweep's runs side by side: metrics.json and report.html at its root.

    Args:
        words: the sweep's folder.
    """
    from slurm.sweep_report import write_sweep_report

    root = Path(words[0])
    write_sweep_report(root, runs_of(root))
    return 0
