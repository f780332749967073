"""The figures of a comparison in the order and units in which people read them: terminal and page alike."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pruner.evaluation.metrics import Models

if TYPE_CHECKING:
    from rich.table import Table


Unit = Literal["number", "count", "bytes", "percent", "rate", "ppl"]
Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: a quantity, for each model that has it.

    Attributes:
        part: of the table it stands in.
        name: with whatever it depends on, e.g. "perplexity, evaluation.txt".
        unit: how `show` writes a value.
        better: the direction in which a model is better.
        values: label of the model -> value.
        errors: label -> standard error, where there is one.
    """

    part: Literal["quality", "cost"]
    name: str
    unit: Unit
    better: Better
    values: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)

    def show(self, label: str) -> str:
        """A model's value with its error, "–" where it has none."""
        if label not in self.values:
            return "–"
        text = FORMATS[self.unit](self.values[label])
        return f"{text} ± {100 * self.errors[label]:.1f}" if label in self.errors else text

    def change(self, label: str, baseline: str) -> str:
        """A value beside the baseline's: as a factor, or in points where it is a percentage."""
        if label == baseline or label not in self.values or not self.values.get(baseline):
            return ""
        value, reference = self.values[label], self.values[baseline]
        if self.unit == "percent":
            return f"{100 * (value - reference):+.1f} pts".replace("-", "−")
        return f"× {value / reference:.2f}"


def figures(models: Models) -> list[Figure]:
    """Every figure that at least one model has, quality before cost."""
    return [*_quality(models), *_cost(models)]


def terminal_table(models: Models) -> "Table":
    """The comparison for a terminal: a row for each figure, a column for each model."""
    from rich.table import Table
    from rich.text import Text

    baseline = next(iter(models), "")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for label in models:
        table.add_column(Text(label), justify="right")
    for figure in figures(models):
        cells = [Text(figure.name)]
        for label in models:
            change = figure.change(label, baseline)
            cells.append(Text.assemble(figure.show(label), (f"  {change:>9}" if change else "", "dim")))
        table.add_row(*cells)
    return table


def _quality(models: Models) -> Iterator[Figure]:
    for text in _names(models, "perplexity", "values"):
        values = _collect(models, "perplexity", "values", text, "value")
        yield Figure("quality", f"perplexity, {text}", "ppl", "lower", values)
    for task in _names(models, "tasks", "values"):
        for metric in _names(models, "tasks", "values", task):
            values = _collect(models, "tasks", "values", task, metric, "value")
            errors = _collect(models, "tasks", "values", task, metric, "stderr")
            unit: Unit = "percent" if metric.startswith(("acc", "exact")) else "number"
            better: Better = "lower" if "perplexity" in metric else "higher"
            yield Figure("quality", f"{task} {metric}", unit, better, values, errors)
    yield from _mean_of_tasks(models)
    repetition = _collect(models, "samples", "repetition")
    if repetition:
        yield Figure("quality", "repeated 4-grams in generated text", "percent", "lower", repetition)


def _mean_of_tasks(models: Models) -> Iterator[Figure]:
    """The mean over tasks where each reports one accuracy, as the paper's tables have it."""
    tasks = [_names(models, "tasks", "values", task) for task in _names(models, "tasks", "values")]
    if len(tasks) < 2 or any(len(metrics) != 1 or not metrics[0].startswith("acc") for metrics in tasks):
        return
    values, errors = {}, {}
    for label, row in models.items():
        scores = [score for task in (_at(row, ("tasks", "values")) or {}).values() for score in task.values()]
        if len(scores) == len(tasks):
            values[label] = math.fsum(score["value"] for score in scores) / len(scores)
            errors[label] = math.hypot(*(score["stderr"] or 0.0 for score in scores)) / len(scores)
    yield Figure("quality", f"mean of {len(tasks)} tasks", "percent", "higher", values, errors)


def _cost(models: Models) -> Iterator[Figure]:
    for name, unit, better, path in COST:
        values = _collect(models, *path)
        if values:
            yield Figure("cost", name, unit, better, values)


COST: tuple[tuple[str, Unit, Better, tuple[str, str]], ...] = (
    ("parameters", "count", "lower", ("size", "parameters")),
    ("decoder parameters", "count", "lower", ("size", "decoder_parameters")),
    ("multiply-accumulates per token", "count", "lower", ("size", "macs_per_token")),
    ("weights in memory", "bytes", "lower", ("size", "weight_bytes")),
    ("cache per token", "bytes", "lower", ("size", "cache_bytes_per_token")),
    ("prefill", "rate", "higher", ("speed", "prefill_tokens_per_second")),
    ("decoding", "rate", "higher", ("speed", "decode_tokens_per_second")),
    ("peak GPU memory", "bytes", "lower", ("speed", "peak_bytes")),
)


def _collect(models: Models, *path: str) -> dict[str, float]:
    """Label -> what lies at `path` in the model's row, for the models that have it."""
    found = {label: _at(row, path) for label, row in models.items()}
    return {label: float(value) for label, value in found.items() if value is not None}


def _names(models: Models, *path: str) -> list[str]:
    """Keys of the mappings that lie at `path`, each once."""
    return list(dict.fromkeys(key for row in models.values() for key in _at(row, path) or {}))


def _at(row: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        row = (row or {}).get(key)
    return row


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.0f}"


def _bytes(value: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.0f} B"


FORMATS: dict[str, Callable[[float], str]] = {
    "number": lambda value: f"{value:.4g}",
    "count": _count,
    "bytes": _bytes,
    "percent": lambda value: f"{100 * value:.1f} %",
    "rate": lambda value: f"{value:.3g} tokens/s" if value < 1000 else f"{value:,.0f} tokens/s",
    "ppl": lambda value: f"{value:.2f}" if value < 1000 else f"{value:.3g}",
}
