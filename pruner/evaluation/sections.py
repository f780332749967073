"""The report's further sections, each empty where the run has nothing to say to it."""

from collections.abc import Collection, Iterator, Mapping

from pruner.evaluation import charts
from pruner.evaluation.losses import Curve, smooth
from pruner.evaluation.markup import Markup, join, tag
from pruner.evaluation.metrics import Models
from pruner.evaluation.removal import KINDS, Scores, Width, hidden_width, scores, widths
from pruner.plan import PruningPlan

NOTHING = Markup("")


def removal(plan: PruningPlan | None) -> Markup:
    """Heat map, kept widths, score distributions."""
    if plan is None:
        return NOTHING
    table = widths(plan)
    hidden = hidden_width(plan)
    parts = [tag("h2", "What was removed")]
    if hidden:
        parts.append(tag("p", f"Residual stream: {hidden.kept:,} of {hidden.dense:,} channels kept."))
    if table:
        shares = {kind: [width.removed if width else None for width in row] for kind, row in table.items()}
        heat = tag(
            "div",
            tag("h3", "Share removed by kind and layer"),
            charts.heat_map(shares, plan.dropped),
            class_="card wide",
        )
        parts.append(tag("div", heat, *_kept_widths(table, plan.dropped), class_="cards"))
    found = scores(plan)
    if found:
        parts += [
            tag("h2", "Scores"),
            tag("p", _about_scores(plan, found), class_="note"),
            tag("div", *[_distribution(kind, each) for kind, each in found.items()], class_="cards"),
        ]
    return join(*parts)


def recovery(curves: Mapping[str, Curve]) -> Markup:
    """The loss curve: every logged step faint, the mean of its neighbours strong."""
    if not curves:
        return NOTHING
    series: dict[str, tuple[Curve, str]] = {}
    if "loss" in curves:
        series = {
            "training, each step": (curves["loss"], "faint"),
            "training": (smooth(curves["loss"]), "m2"),
        }
    if "val_loss" in curves:
        series["held out"] = (curves["val_loss"], "m1")
    card = tag(
        "div", tag("h3", "Loss, nats per token"), charts.lines(series, "optimizer step"), class_="card wide"
    )
    return join(tag("h2", "Recovery"), tag("div", card, class_="cards"))


def samples(models: Models) -> Markup:
    """What each model wrote after each prompt, side by side."""
    written = {label: row["samples"]["values"] for label, row in models.items() if "samples" in row}
    colours = charts.model_colours(models)
    prompts = dict.fromkeys(sample["prompt"] for values in written.values() for sample in values)
    parts = []
    for prompt in prompts:
        texts = {
            label: sample["text"]
            for label, values in written.items()
            for sample in values
            if sample["prompt"] == prompt
        }
        cards = [_sample(label, text, colours[label]) for label, text in texts.items()]
        parts += [tag("p", prompt, class_="prompt"), tag("div", *cards, class_="cards")]
    return (
        join(tag("h2", "Samples"), tag("p", "Greedy continuations.", class_="note"), *parts)
        if parts
        else NOTHING
    )


def settings(plan: PruningPlan | None, config: str) -> Markup:
    """How it was made: the plan's own account, and the whole configuration."""
    facts = _facts(plan) if plan else []
    if not facts and not config:
        return NOTHING
    listed = [tag(element, text) for fact in facts for element, text in zip(("dt", "dd"), fact)]
    whole = tag("details", tag("summary", "config.yaml"), tag("pre", config)) if config else NOTHING
    return join(
        tag("h2", "Configuration"),
        tag("div", tag("dl", *listed) if listed else NOTHING, whole, class_="card scroll"),
    )


def _kept_widths(table: Mapping[str, list[Width | None]], gone: Collection[int]) -> Iterator[Markup]:
    for kind, row in table.items():
        dense = max(width.dense for width in row if width)
        if kind == KINDS["layer"]:
            continue
        plot = charts.columns(
            [width.kept if width else None for width in row],
            [width.dense if width else dense for width in row],
            "m2",
            gone,
        )
        yield tag("div", tag("h3", f"{kind} kept in each layer"), plot, class_="card")


def _distribution(kind: str, found: Scores) -> Markup:
    stacks = {"kept": (found.kept, "m2"), "removed": (found.removed, "removed")}
    heading, name = f"{kind}, number of units", "score"
    if kind == KINDS["layer"]:
        heading, name = "whole layers, number of layers", "rise of the loss without the layer, nats"
    name += ", decimal logarithm" if found.logarithmic else ""
    return tag("div", tag("h3", heading), charts.histogram(stacks, name), class_="card")


def _about_scores(plan: PruningPlan, found: Collection[str]) -> str:
    """What the scores are: those of whole layers do not come from the criterion."""
    said = []
    if set(found) - {KINDS["layer"]}:
        said.append(
            f"Importance by {plan.criterion}. Where every layer has its own budget, kept and removed scores "
            "overlap: what is low in one layer may be high in another."
        )
    if KINDS["layer"] in found:
        said.append("Whole layers are scored by how much the loss rises without the layer, in nats.")
    return " ".join(said)


def _sample(label: str, text: str, colour: str) -> Markup:
    return tag(
        "div",
        tag("span", tag("i", class_=colour), label, class_="label"),
        tag("p", text.strip(), class_="sample"),
        class_="card",
    )


def _facts(plan: PruningPlan) -> list[tuple[str, str]]:
    parts = {
        "criterion": plan.criterion,
        "budget": plan.budget,
        "calibration": plan.calibration,
        "compensation": plan.compensation,
        "dense model": plan.model,
    }
    return [(name, _words(value)) for name, value in parts.items() if value]


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
