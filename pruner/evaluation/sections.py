"""The sections of the report, each empty where the run has nothing to say to it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pruner.evaluation import charts
from pruner.evaluation.losses import Curve, smooth
from pruner.evaluation.markup import Markup, join, tag
from pruner.evaluation.metrics import Models
from pruner.evaluation.removal import Scores, Width, hidden_width, num_layers, scores, widths
from pruner.evaluation.summary import Figure, figures
from pruner.plan import PruningPlan

COLOURS = ("m0", "m1", "m2", "m3", "m4")
NOTHING = Markup("")


def opening(name: str, models: Models, plan: PruningPlan | None) -> Markup:
    """Title, one sentence, and the figures that people ask for first."""
    baseline, *others = list(models) or [""]
    tiles = [_tile(figure, baseline, others[-1]) for figure in _headline(models)] if others else []
    return join(
        tag("h1", name),
        tag("p", _sentence(plan), class_="lead"),
        tag("div", *tiles, class_="tiles") if tiles else NOTHING,
    )


def comparison(models: Models) -> Markup:
    """The table of all figures, and bars for those in which models differ."""
    rows = figures(models)
    if not rows:
        return NOTHING
    shown = [_bars(figure, models) for figure in rows if len(set(figure.values.values())) > 1]
    return join(
        tag("h2", "Quality and cost"),
        tag("div", _table(rows, models), class_="card scroll"),
        tag("p", _conditions(models), class_="note"),
        tag("div", *shown, class_="cards") if shown else NOTHING,
    )


def removal(plan: PruningPlan | None, pruned: Path) -> Markup:
    """Heat map, kept widths, score distributions."""
    if plan is None:
        return NOTHING
    table = widths(plan, num_layers(plan, pruned))
    hidden = hidden_width(plan)
    parts = [tag("h2", "What was removed")]
    if hidden:
        parts.append(tag("p", f"Residual stream: {hidden.kept:,} of {hidden.dense:,} channels kept."))
    if table:
        shares = {kind: [width.removed if width else None for width in row] for kind, row in table.items()}
        heat = tag(
            "div", tag("h3", "Share removed by kind and layer"), charts.heat_map(shares), class_="card wide"
        )
        parts.append(tag("div", heat, *_kept_widths(table), class_="cards"))
    distributions = [_distribution(kind, found) for kind, found in scores(plan).items()]
    if distributions:
        parts += [
            tag("h2", "Scores"),
            tag("p", _about_scores(plan), class_="note"),
            tag("div", *distributions, class_="cards"),
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
    prompts = dict.fromkeys(sample["prompt"] for values in written.values() for sample in values)
    parts = []
    for prompt in prompts:
        texts = {
            label: sample["text"]
            for label, values in written.items()
            for sample in values
            if sample["prompt"] == prompt
        }
        cards = [_sample(label, text, _colour(models, label)) for label, text in texts.items()]
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


def _sentence(plan: PruningPlan | None) -> str:
    if plan is None:
        return "Models compared."
    reached, dense = plan.budget.get("reached_ratio"), plan.model
    if reached is None or "parameters" not in dense:
        return f"{dense.get('architecture', 'Model')} pruned."
    whole = reached * dense["decoder_parameters"] / dense["parameters"]
    return (
        f"{dense.get('architecture', 'Model')} without {100 * reached:.1f} % of its decoder's parameters, "
        f"{100 * whole:.1f} % of all its parameters."
    )


def _headline(models: Models) -> Iterator[Figure]:
    wanted = ("perplexity", "parameters", "weights", "decoding")
    for name in wanted:
        yield from [figure for figure in figures(models) if figure.name.startswith(name)][:1]


def _tile(figure: Figure, baseline: str, label: str) -> Markup:
    change = figure.change(label, baseline) or figure.show(label)
    detail = f"{figure.show(baseline)} → {figure.show(label)}"
    return tag("div", tag("span", figure.name), tag("b", change), tag("span", detail), class_="card tile")


def _table(rows: list[Figure], models: Models) -> Markup:
    baseline = next(iter(models))
    body, part = [], None
    for figure in rows:
        if figure.part != part:
            part = figure.part
            body.append(tag("tr", tag("td", part, colspan=len(models) + 1), class_="part"))
        cells = [
            tag("td", figure.show(label), tag("span", figure.change(label, baseline), class_="change"))
            for label in models
        ]
        body.append(tag("tr", tag("td", figure.name), *cells))
    head = tag("tr", tag("th", ""), *[tag("th", label) for label in models])
    return tag("table", tag("thead", head), tag("tbody", *body), style=f"--models:{len(models)}")


def _conditions(models: Models) -> str:
    """What the figures were measured under, in words."""
    row = next(iter(models.values()))
    said = ["Factors and points are against the first column."]
    if "perplexity" in row:
        said.append(f"Perplexity in windows of {row['perplexity']['seq_len']} tokens.")
    if "tasks" in row:
        limit = row["tasks"]["limit"]
        said.append(
            f"Tasks on their first {limit} items, ± standard error." if limit else "Tasks ± standard error."
        )
    if "speed" in row:
        speed = row["speed"]
        threads = f", {speed['threads']} thread(s)" if speed["device"] == "cpu" else ""
        said.append(
            f"Speed on {speed['device']}{threads} in {row['dtype']}: batch {speed['batch_size']}, "
            f"{speed['prompt_tokens']} tokens read, {speed['new_tokens']} generated, "
            f"median of {speed['repeats']}."
        )
    return " ".join(said)


def _bars(figure: Figure, models: Models) -> Markup:
    values = {
        label: (figure.values[label], figure.show(label), _colour(models, label))
        for label in models
        if label in figure.values
    }
    better = f"{figure.better} is better"
    return tag("div", tag("h3", figure.name, " ", tag("small", better)), charts.bars(values), class_="card")


def _kept_widths(table: Mapping[str, list[Width | None]]) -> Iterator[Markup]:
    for kind, row in table.items():
        dense = max(width.dense for width in row if width)
        if kind == "whole layer":
            continue
        plot = charts.columns(
            [width.kept if width else None for width in row],
            [width.dense if width else dense for width in row],
            "m2",
        )
        yield tag("div", tag("h3", f"{kind} kept in each layer"), plot, class_="card")


def _distribution(kind: str, found: Scores) -> Markup:
    stacks = {"kept": (found.kept, "m2"), "removed": (found.removed, "removed")}
    name = "score, decimal logarithm" if found.logarithmic else "score"
    return tag("div", tag("h3", f"{kind}, number of units"), charts.histogram(stacks, name), class_="card")


def _about_scores(plan: PruningPlan) -> str:
    return (
        f"Importance by {plan.criterion}. Where every layer has its own budget, kept and removed scores "
        "overlap: what is low in one layer may be high in another."
    )


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


def _colour(models: Models, label: str) -> str:
    return COLOURS[list(models).index(label) % len(COLOURS)]
