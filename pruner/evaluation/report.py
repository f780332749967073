"""One page about a run: what was removed, what it cost, what came back; no network, no script."""

from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from pruner.evaluation.comparison import comparison, opening
from pruner.evaluation.losses import loss_curves
from pruner.evaluation.markup import Markup, join, tag
from pruner.evaluation.metrics import read_metrics
from pruner.evaluation.sections import recovery, removal, samples, settings
from pruner.plan import PruningPlan
from pruner.run_folder import RunFolder, write_text


def write_report(run_dir: Path) -> None:
    """Write `report.html` from what lies in a run folder; what is not there is left out of the page.

    Raises:
        ValueError: `plan.json` or `metrics.json` is not what this version writes.
    """
    run = RunFolder(run_dir)
    metrics = read_metrics(run.metrics)
    plan = PruningPlan.load(run.plan) if run.plan.exists() else None
    config = run.config.read_text(encoding="utf-8") if run.config.exists() else ""
    name = run_dir.resolve().name
    body = join(
        opening(name, metrics, plan),
        comparison(metrics),
        removal(plan),
        recovery(loss_curves(run.logs)),
        samples(metrics),
        settings(plan, config),
        tag("footer", "Written by llm-prune from metrics.json, plan.json, config.yaml and logs/."),
    )
    write_text(run.report, page(name, body))


def page(title: str, body: Markup) -> str:
    """A whole document around `body`."""
    template = files("pruner.evaluation").joinpath("report_template.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(title), body=body)
