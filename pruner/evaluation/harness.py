"""Tasks of the language model evaluation harness, on a model in memory."""

import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.evaluation.local_tasks import files_of, overlaid

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one task, e.g. "acc_norm": a mean over `num_items` and its standard error."""

    value: float
    stderr: float | None
    num_items: int | None


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    folder: str | Path | None = None,
    data: str | Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> dict[str, dict[str, Score]]:
    """Score a model on tasks; returns task or group name -> metric -> score.

    Args:
        model: where it lies, in memory.
        tokenizer: the model's.
        tasks: names, of stock tasks or of those in `folder`; NAME:METRIC keeps one metric of it.
        folder: YAML task files beside the stock ones, e.g. overlays that read local data.
        data: folder from which the paper's seven tasks are read, instead of a hub.
        limit: only the first items of each task.
        num_fewshot: examples before each question; None for what the task says.
        batch_size: requests in one forward pass.
        seed: of the choice of examples.

    Raises:
        ValueError: a task or metric does not exist or the task's data cannot be had.
    """
    if data is not None:
        with overlaid(names_of(tasks), data) as overlays:
            return run_tasks(
                model,
                tokenizer,
                tasks,
                folder=overlays,
                limit=limit,
                num_fewshot=num_fewshot,
                batch_size=batch_size,
                seed=seed,
            )
    check_tasks(tasks, folder)
    names = names_of(tasks)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    try:
        outcome = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=names,
            task_manager=_task_manager(tuple(names), folder),
            num_fewshot=num_fewshot,
            limit=limit,
            log_samples=False,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ConnectionError) as error:
        raise ValueError(
            f"the data of {', '.join(names)} cannot be had: {error}\n"
            "Without a hub, evaluation.tasks_data reads the paper's seven tasks from local files, and "
            "YAML overlays in evaluation.tasks_folder any other."
        ) from error
    scores = {name: _scores(row, outcome["n-samples"].get(name)) for name, row in outcome["results"].items()}
    return _chosen(scores, tasks)


def names_of(tasks: Sequence[str]) -> list[str]:
    """The tasks' names, without the metric that is to be kept."""
    return [task.partition(":")[0] for task in tasks]


def check_tasks(
    tasks: Sequence[str], folder: str | Path | None = None, data: str | Path | None = None
) -> None:
    """Raise ValueError unless every task is known, stock or in `folder`, and has its file in `data`.

    Needs no model.

    Raises:
        ValueError: also where lm-eval is not installed.
    """
    names = names_of(tasks)
    if data is not None:
        if folder is not None:
            raise ValueError("give evaluation.tasks_data or evaluation.tasks_folder, not both")
        files_of(names, Path(data))
        return
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"evaluation.tasks_folder must be a folder of YAML files; there is none at {folder}")
    known = _task_manager(tuple(names), folder).all_tasks
    for task in names:
        if task not in known:
            close = ", ".join(difflib.get_close_matches(task, known, 5))
            raise ValueError(
                f"there is no task {task!r}, neither of lm-eval's own nor in "
                f"{folder or 'evaluation.tasks_folder (not given)'}; "
                + (f"nearest: {close}" if close else "`lm_eval ls tasks` lists lm-eval's own")
            )


@functools.lru_cache(maxsize=1)
def _task_manager(tasks: tuple[str, ...], folder: str | Path | None) -> "TaskManager":
    """An index that holds `tasks`; the stock one takes a quarter of a minute, so only where it is needed."""
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise ValueError("evaluation.tasks needs lm-eval: pip install 'llm-prune[evaluation]'") from error
    if folder is not None:
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if set(tasks) <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=None if folder is None else str(folder))


def _chosen(scores: dict[str, dict[str, Score]], tasks: Sequence[str]) -> dict[str, dict[str, Score]]:
    """`scores` with, of a task that was asked for as NAME:METRIC, that metric alone."""
    for task in tasks:
        name, _, metric = task.partition(":")
        if metric and metric not in scores[name]:
            raise ValueError(f"task {name} has no metric {metric!r}; it has {', '.join(scores[name])}")
        if metric:
            scores[name] = {metric: scores[name][metric]}
    return scores


def _scores(row: Mapping[str, Any], num_items: Mapping[str, int] | None) -> dict[str, Score]:
    """The numbers of one row of lm-eval's results, whose keys read "acc,none" and "acc_stderr,none"."""
    scores = {}
    for key, value in row.items():
        metric, comma, variant = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        stderr = row.get(f"{metric}_stderr,{variant}")
        name = metric if variant == "none" else f"{metric} ({variant})"
        scores[name] = Score(
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, (int, float)) else None,
            num_items=num_items["effective"] if num_items else None,
        )
    return scores
