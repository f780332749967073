"""The report over all runs of a sweep: quality against size, and every figure in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruner.evaluation import charts
from pruner.evaluation.comparison import comparison, opening
from pruner.evaluation.markup import Markup, join, tag
from pruner.evaluation.metrics import Models, read_metrics, write_metrics
from pruner.evaluation.report import page
from pruner.evaluation.sections import samples
from pruner.evaluation.summary import figures
from pruner.run_folder import RunFolder, write_text

DENSE = "dense"
STAGES = ("pruned", "recovered")


def write_sweep_report(root: Path, runs: Sequence[Path]) -> None:
    """Write `metrics.json` and `report.html` into a sweep's folder, from those of its runs that have figures.

    Args:
        root: the sweep's folder.
        runs: the folders of its runs, in the order in which they are shown.
    """
    models: dict[str, Any] = {}
    for run in runs:
        for name, row in read_metrics(RunFolder(run).metrics).items():
            models[DENSE if name == DENSE else f"{run.name} {name}"] = row
    write_metrics(RunFolder(root).metrics, models)
    body = join(
        opening(root.name, models, None),
        trade_off(models),
        comparison(models),
        samples(models),
        tag("footer", f"Written by llm-prune from the metrics.json of {len(runs)} runs."),
    )
    write_text(RunFolder(root).report, page(root.name, body))


def trade_off(models: Models) -> Markup:
    """Quality over the number of parameters, before and after recovery, where the runs differ."""
    rows = figures(models)
    size = next((figure.values for figure in rows if figure.name == "parameters"), {})
    cards = []
    for figure in rows:
        if figure.part != "quality" or len(set(figure.values.values())) == 1:
            continue
        series = {}
        for place, stage in enumerate(STAGES, start=1):
            labels = [label for label in models if label == DENSE or label.endswith(f" {stage}")]
            points = [(size[label], figure.values[label]) for label in labels if label in figure.values]
            if points:
                series[stage] = (sorted(points), f"m{place}")
        heading = tag("h3", figure.name, " ", tag("small", f"{figure.better} is better"))
        cards.append(tag("div", heading, charts.lines(series, "parameters"), class_="card wide"))
    if not cards:
        return Markup("")
    return join(tag("h2", "Quality over size"), tag("div", *cards, class_="cards"))
