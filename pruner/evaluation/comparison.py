"""The report's first screen and its table: every model's figures beside the first model's."""

from collections.abc import Iterator

from pruner.evaluation import charts
from pruner.evaluation.markup import Markup, join, tag
from pruner.evaluation.metrics import Models
from pruner.evaluation.summary import Figure, figures
from pruner.plan import PruningPlan


def opening(name: str, models: Models, plan: PruningPlan | None) -> Markup:
    """Title, one sentence, and the figures that people ask for first."""
    baseline, *others = list(models) or [""]
    tiles = [_tile(figure, baseline, others[-1]) for figure in _headline(models)] if others else []
    return join(
        tag("h1", name),
        tag("p", _sentence(plan), class_="lead"),
        tag("div", *tiles, class_="tiles") if tiles else Markup(""),
    )


def comparison(models: Models) -> Markup:
    """The table of all figures, and bars for those in which models differ."""
    rows = figures(models)
    if not rows:
        return Markup("")
    shown = [_bars(figure, models) for figure in rows if len(set(figure.values.values())) > 1]
    return join(
        tag("h2", "Quality and cost"),
        tag("div", _table(rows, models), class_="card scroll"),
        tag("p", _conditions(models), class_="note"),
        tag("div", *shown, class_="cards") if shown else Markup(""),
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
    colours = charts.model_colours(models)
    values = {
        label: (figure.values[label], figure.show(label), colours[label])
        for label in models
        if label in figure.values
    }
    better = f"{figure.better} is better"
    return tag("div", tag("h3", figure.name, " ", tag("small", better)), charts.bars(values), class_="card")
