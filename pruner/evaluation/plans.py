"""Pruning plans as tables: one plan's widths by layer, and where two plans part."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pruner.evaluation.removal import KINDS, Width, num_layers, widths
from pruner.plan import GroupPlan, PruningPlan

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BAR = 24
"""Characters of a full bar."""


def plan_table(plan: PruningPlan) -> "RenderableType":
    """What was asked, what is reached, and each layer's widths as bars."""
    from rich.console import Group

    return Group(_facts([plan], ["plan"]), "", _layers(plan))


def difference_table(first: PruningPlan, second: PruningPlan) -> "RenderableType":
    """The facts of two plans side by side, then the groups in which they keep different units.

    Raises:
        ValueError: the plans are of different models.
    """
    from rich.console import Group

    if first.model["fingerprint"] != second.model["fingerprint"]:
        raise ValueError(
            f"the plans are of different models, {first.model['architecture']} "
            f"{first.model['fingerprint']} and {second.model['architecture']} {second.model['fingerprint']}: "
            "compare plans of one model"
        )
    return Group(_facts([first, second], ["first", "second"]), "", _parted(first, second))


def _facts(plans: Iterable[PruningPlan], labels: Iterable[str]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for label in labels:
        table.add_column(label)
    columns = [_described(plan) for plan in plans]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _described(plan: PruningPlan) -> dict[str, str]:
    budget, text, refit = plan.budget, plan.calibration, plan.compensation
    return {
        "model": f"{plan.model['architecture']} {plan.model['fingerprint']}",
        "criterion": plan.criterion,
        "calibration": "{num_samples} × {seq_len} tokens of {path}, seed {seed}".format(**text)
        if text
        else "none",
        "compensation": _refitted(refit),
        "asked": _asked(budget),
        "reached": f"{budget['reached_ratio']:.2%}, of the whole model {budget['reached_ratio_of_all']:.2%}",
        "parameters": f"{plan.model['parameters']:,} → {budget['parameters']:,}",
    }


def _refitted(refit: Mapping[str, Any]) -> str:
    """What was refitted, in words."""
    if not refit:
        return "none"
    if not refit.get("weights", True):
        return "biases alone"
    biases = ", with biases" if refit.get("bias") else ""
    return "damping {damping:g}, drift {drift:g}".format(**refit) + biases


TARGETS = {
    "target_parameters": "{:,} parameters in all",
    "target_bytes": "{:,} bytes in all",
    "target_macs": "{:,} multiply-accumulates for each token",
    "target_latency": "{:g} s for each token",
}
"""Target of a budget -> how it is said."""


def _asked(budget: Mapping[str, Any]) -> str:
    """What a budget asks for, in words."""
    words = [said.format(budget[name]) for name, said in TARGETS.items() if budget.get(name) is not None]
    if budget.get("widths"):
        words.append(", ".join(f"{width} {kind}" for kind, width in budget["widths"].items()) + " a layer")
    if not words and budget["ratio"] is not None:
        words.append(f"{budget['ratio']:.2%} of the decoder")
    if budget.get("layers"):
        words.append(f"{budget['layers']} whole layers")
    return ", of it ".join(words)


def _layers(plan: PruningPlan) -> "Table":
    from rich.table import Table

    rows = widths(plan, num_layers(plan))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", justify="right")
    for kind in rows:
        table.add_column(kind)
    for layer, cells in enumerate(zip(*rows.values())):
        table.add_row(str(layer), *map(_bar, cells))
    return table


def _bar(width: Width | None) -> str:
    if width is None:
        return "–"
    full = round(BAR * width.kept / width.dense)
    return f"{'█' * full}{'░' * (BAR - full)} {width.kept:>6} of {width.dense}"


def _parted(first: PruningPlan, second: PruningPlan) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("layer", "kind", "dense", "first keeps", "second keeps", "both keep"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for name in dict.fromkeys([*first.groups, *second.groups]):
        share = first.groups.get(name) or second.groups[name]
        ours, theirs = (_kept(plan.groups.get(name), share.num_units) for plan in (first, second))
        if ours != theirs:
            layer = "all" if share.layer is None else str(share.layer)
            counts = (share.num_units, len(ours), len(theirs), len(ours & theirs))
            table.add_row(layer, KINDS.get(share.kind, share.kind), *map(str, counts))
    if not table.row_count:
        table.add_row("", "every group keeps the same units")
    return table


def _kept(share: GroupPlan | None, num_units: int) -> set[int]:
    """A group that a plan does not name keeps everything."""
    return set(range(num_units) if share is None else share.kept)
