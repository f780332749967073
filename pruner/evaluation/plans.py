"""Pruning plans as tables: one plan's widths by layer, and where two plans part."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.evaluation.removal import KINDS, Width, widths
from pruner.plan import GroupPlan, PruningPlan

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PAGE, BAR = 80, 24
"""Characters of a row, and of a full bar where a row has room for it."""


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
    budget, text = plan.budget, plan.calibration
    return {
        "model": f"{plan.model['architecture']} {plan.model['fingerprint']}",
        "criterion": plan.criterion,
        "calibration": _read(text),
        "compensation": _refitted(plan.compensation),
        "asked": _asked(budget),
        "reached": _reached(budget),
        "parameters": f"{plan.model['parameters']:,} → {budget['parameters']:,}",
    }


def _read(text: Mapping[str, Any]) -> str:
    """Which text was looked at: its file's name and the fingerprint of the samples."""
    if not text:
        return "none"
    said = "{num_samples} × {seq_len} tokens of {name}, seed {seed} ({fingerprint})"
    return said.format(**text, name=Path(text["path"]).name)


def _refitted(refit: Mapping[str, Any]) -> str:
    """What was refitted, in words."""
    if not refit:
        return "none"
    if not refit.get("weights", True):
        return "biases alone"
    biases = ", with biases" if refit.get("bias") else ""
    return "damping {damping:g}, drift {drift:g}".format(**refit) + biases


MEASURED = {"macs": "{:,.0f} multiply-accumulates for each token", "latency": "{:.4g} s for each token"}
"""What is measured of a model -> how it is said."""

TARGETS = {
    "target_parameters": "{:,} parameters in all",
    "target_bytes": "{:,} bytes in all",
    **{f"target_{name}": said for name, said in MEASURED.items()},
}
"""Target of a budget -> how it is said."""


def _reached(budget: Mapping[str, Any]) -> str:
    """What a budget has come to, in a second line the target that was measured."""
    lines = [f"{budget['reached_ratio']:.2%}, of the whole model {budget['reached_ratio_of_all']:.2%}"]
    lines += [said.format(budget[name]) for name, said in MEASURED.items() if name in budget]
    return "\n".join(lines)


def _asked(budget: Mapping[str, Any]) -> str:
    """What a budget asks for, in words."""
    words = [said.format(budget[name]) for name, said in TARGETS.items() if budget.get(name) is not None]
    if budget.get("widths"):
        words.append(", ".join(f"{width} {kind}" for kind, width in budget["widths"].items()) + " a layer")
    by_ratio = not words and budget["ratio"] is not None
    if by_ratio:
        words.append(f"{budget['ratio']:.2%} of the decoder")
    if budget.get("layers"):
        words.append(f"{budget['layers']} whole layer{'s' if budget['layers'] > 1 else ''}")
    return (", of it " if by_ratio else ", and without ").join(words)


def _layers(plan: PruningPlan) -> "Table":
    """A row for each layer; whole layers have a column only where nothing else says that they go."""
    from rich.table import Table

    rows = widths(plan)
    rows = {kind: row for kind, row in rows.items() if kind != KINDS["layer"]} or rows
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", justify="right")
    for kind in rows:
        table.add_column(kind, no_wrap=True)
    room = (PAGE - len("layer")) // max(1, len(rows)) - 2
    columns = [_column(row, plan.dropped, room) for row in rows.values()]
    for layer, cells in enumerate(zip(*columns)):
        table.add_row(str(layer), *cells)
    return table


def _column(row: Sequence[Width | None], gone: Collection[int], room: int) -> list[str]:
    """One kind's widths, of every layer, in at most `room` characters."""
    digits = len(str(max(width.dense for width in row if width)))
    length = max(0, min(BAR, room - 2 * digits - len("  of ")))
    return ["gone" if layer in gone else _bar(width, length, digits) for layer, width in enumerate(row)]


def _bar(width: Width | None, length: int, digits: int) -> str:
    if width is None:
        return "–"
    full = round(length * width.kept / width.dense)
    return f"{'█' * full}{'░' * (length - full)} {width.kept:>{digits}} of {width.dense}"


def _parted(first: PruningPlan, second: PruningPlan) -> "RenderableType":
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
    return table if table.row_count else "every group keeps the same units"


def _kept(share: GroupPlan | None, num_units: int) -> set[int]:
    """A group that a plan does not name keeps everything."""
    return set(range(num_units) if share is None else share.kept)
