"""Sweeps: one run for every combination of some settings, as job arrays."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path


def points(sweep: Sequence[str]) -> list[dict[str, str]]:
    """Every combination of `KEY=VALUE,VALUE,…`; raises ValueError where one has no values."""
    axes = []
    for each in sweep:
        name, equals, values = each.partition("=")
        if not equals or not all(values.split(",")):
            raise ValueError(f"a sweep is KEY=VALUE,VALUE,… (pruner.budget.ratio=0.1,0.2), got {each!r}")
        axes.append([(name, value) for value in values.split(",")])
    return [dict(combination) for combination in itertools.product(*axes)]


def arguments_of_task(words: Sequence[str], task: str | None) -> list[str]:
    """The words of one task of a job array, from the file that lists them; of another job, as they are."""
    if task is None or len(words) != 1 or not words[0].endswith(".json"):
        return list(words)
    listed: list[list[str]] = json.loads(Path(words[0]).read_text())
    return listed[int(task)]
