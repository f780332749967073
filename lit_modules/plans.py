"""`llm-prune plan`: what its three words do."""

import rich

from pruner.evaluation.plans import difference_table, plan_table
from pruner.pipeline import PruningSettings
from pruner.pipeline.preview import preview as preview_plan
from pruner.plan import PruningPlan


def show(plan: str) -> None:
    """Show a plan: what was asked, what is reached, and every layer's widths.

    Args:
        plan: plan.json of a run.
    """
    rich.print(plan_table(PruningPlan.load(plan)))


def diff(first: str, second: str) -> None:
    """Compare two plans of one model.

    Args:
        first: plan.json of a run.
        second: plan.json of another.
    """
    rich.print(difference_table(PruningPlan.load(first), PruningPlan.load(second)))


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
        scored: plan.json of a run whose scores choose the units.
        output: where to write the plan.json that results.
        trust_remote_code: run modelling code that comes with the model.
    """
    given = None if scored is None else PruningPlan.load(scored)
    plan = preview_plan(model, pruner, given, trust_remote_code)
    if output is not None:
        plan.save(output)
    rich.print(plan_table(plan))
