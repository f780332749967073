"""`llm-prune plan`: what its three words do."""

from dataclasses import replace
from pathlib import Path

import rich

from pruner.evaluation.plans import difference_table, plan_table
from pruner.pipeline import PruningSettings
from pruner.pipeline.preview import preview as preview_plan
from pruner.plan import PruningPlan
from pruner.run_folder import RunFolder


def show(plan: str) -> None:
    """Show a plan: what was asked, what is reached, and every layer's widths.

    Args:
        plan: a run folder, or plan.json of one.
    """
    rich.print(plan_table(PruningPlan.load(plan_file(plan))))


def diff(first: str, second: str) -> None:
    """Compare two plans of one model.

    Args:
        first: a run folder, or plan.json of one.
        second: another.
    """
    rich.print(difference_table(PruningPlan.load(plan_file(first)), PruningPlan.load(plan_file(second))))


def preview(
    model: str,
    pruner: PruningSettings = PruningSettings(),
    scored: str | None = None,
    output: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Show what a budget would leave of a model; reads its configuration, none of its weights.

    Args:
        model: model folder or hub name.
        pruner: what to remove.
        scored: a run folder or plan.json of one, whose scores choose the units.
        output: where to write the plan.json that results.
        trust_remote_code: run modelling code that comes with the model.
    """
    given = None if scored is None else PruningPlan.load(plan_file(scored))
    plan = preview_plan(model, pruner, given, trust_remote_code)
    if given is not None:
        plan = replace(plan, calibration=given.calibration)
    if output is not None:
        plan.save(output)
    rich.print(plan_table(plan))


def plan_file(place: str) -> Path:
    """The file of a plan that is named by itself or by its run folder."""
    path = Path(place)
    return RunFolder(path).plan if path.is_dir() else path
