"""Plots as HTML and SVG: marks stretch with the page, words keep their size, one layer or hundreds."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pruner.evaluation.markup import Markup, join, tag

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis whose ends and ticks are round numbers, evenly spaced."""

    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Position of a value, 0 at the first tick and 100 at the last."""
        first, last = self.ticks[0], self.ticks[-1]
        return 100 * (value - first) / (last - first)


def scale(values: Sequence[float], from_zero: bool = False, whole: bool = False) -> Scale:
    """The tightest round axis that holds all `values`; its ticks are whole numbers if those are counts."""
    low, high = min(values), max(values)
    low = min(low, 0.0) if from_zero else low
    size = max(abs(low), abs(high), float(whole), 1e-30)
    high = high if high - low > 1e-6 * size else low + size
    rough = max((high - low) / 4, float(whole))
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [power * round_ for round_ in (1, 2, 2.5, 5, 10)]
    step = next(step for step in steps if step >= rough * 0.999 and (step.is_integer() or not whole))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(tuple(step * tick for tick in range(first, last + 1)))


def model_colours(labels: Iterable[str]) -> dict[str, str]:
    """Label -> the class that colours a model, the same in every plot."""
    return {label: f"m{place % 5}" for place, label in enumerate(labels)}


def columns(
    kept: Sequence[int | None], dense: Sequence[int], colour: str, gone: Collection[int] = ()
) -> Markup:
    """Kept width of each layer, before the pale outline of what it had.

    Args:
        kept: None where all is kept.
        dense: what each layer had.
        colour: class of what is kept.
        gone: the layers that were removed whole.
    """
    axis = scale(dense, from_zero=True, whole=True)
    width = 100 / len(dense)
    marks = []
    for layer, (left, had) in enumerate(zip(kept, dense)):
        stays = had if left is None else left
        name = f"layer {layer}: {stays} of {had}" + (", layer removed" if layer in gone else "")
        for height, kind in ((axis.place(had), "gone"), (axis.place(stays), colour)):
            marks.append(_rectangle((layer + 0.08) * width, 100 - height, width * 0.84, height, kind, name))
    return frame(svg(_grid(axis), *marks), axis, _layers(len(dense)), "layer")


def lines(series: Mapping[str, tuple[Points, str]], x_name: str) -> Markup:
    """Curves over a common axis: name -> points and the class that colours them; a lone point is a level."""
    everything = [point for points, _ in series.values() for point in points]
    low, high = min(x for x, _ in everything), max(x for x, _ in everything)
    axis, span = scale([y for _, y in everything]), (high - low) or 1.0
    marks = []
    for name, (points, colour) in series.items():
        path = [f"{100 * (x - low) / span:.2f},{100 - axis.place(y):.2f}" for x, y in points]
        if len(path) == 1:
            level = path[0].partition(",")[2]
            path = [f"0,{level}", f"100,{level}"]
        marks.append(tag("polyline", tag("title", name), points=" ".join(path), class_=f"line {colour}"))
    colours = {name: colour for name, (_, colour) in series.items()}
    edges = [number(low), number(high)] if high > low else [number(low)]
    return join(legend(colours), frame(svg(_grid(axis), *marks), axis, _edges(edges), x_name))


def histogram(stacks: Mapping[str, tuple[Sequence[float], str]], x_name: str, bins: int = 40) -> Markup:
    """Counts of values in bins of equal width, the parts of a bin on top of one another."""
    everything = [value for values, _ in stacks.values() for value in values]
    low, high = min(everything), max(everything)
    span = (high - low) or 1.0
    counts = {name: [0] * bins for name in stacks}
    for name, (values, _) in stacks.items():
        for value in values:
            counts[name][min(bins - 1, int(bins * (value - low) / span))] += 1
    axis = scale([sum(parts) for parts in zip(*counts.values())], from_zero=True, whole=True)
    marks, floor = [], [0] * bins
    for name, (_, colour) in stacks.items():
        for place, count in enumerate(counts[name]):
            if count:
                top = 100 - axis.place(floor[place] + count)
                title = f"{count} {name}"
                marks.append(_rectangle(place * 100 / bins, top, 92 / bins, axis.place(count), colour, title))
            floor[place] += count
    edges = [number(low + share * span, 3) for share in (0, 0.5, 1)]
    colours = {name: colour for name, (_, colour) in stacks.items()}
    return join(legend(colours), frame(svg(_grid(axis), *marks), axis, _edges(edges), x_name))


def heat_map(rows: Mapping[str, Sequence[float | None]], gone: Collection[int] = ()) -> Markup:
    """Share removed for each kind (down) and layer (across).

    Args:
        rows: kind -> share of each layer, None where all is kept.
        gone: the layers that were removed whole.
    """
    top = (
        max((share for shares in rows.values() for share in shares if share is not None), default=0.0) or 1.0
    )
    body = []
    for name, shares in rows.items():
        cells = [_cell(name, layer, share, top, layer in gone) for layer, share in enumerate(shares)]
        body += [tag("span", name, class_="kind"), tag("div", *cells, class_="cells")]
    length = max(len(shares) for shares in rows.values())
    key = tag("div", tag("span", "kept"), tag("i"), tag("span", f"{100 * top:.0f} % removed"), class_="key")
    return join(tag("div", *body, tag("span", "layer", class_="kind"), _layers(length), class_="heat"), key)


def bars(values: Mapping[str, tuple[float, str, str]]) -> Markup:
    """Horizontal bars from zero: label -> value, its text, and the class that colours it."""
    longest = max(value for value, _, _ in values.values()) or 1.0
    rows = []
    for label, (value, text, colour) in values.items():
        bar = tag("i", class_=colour, style=f"width:{100 * value / longest:.2f}%")
        rows += [tag("span", label), tag("div", bar, class_="track"), tag("b", text)]
    return tag("div", *rows, class_="bars")


def frame(plot: Markup, axis: Scale, below: Markup, x_name: str) -> Markup:
    """A plot with its ticks on the left and its other axis below it."""
    ticks = [tag("span", number(tick)) for tick in reversed(axis.ticks)]
    return tag(
        "div",
        tag("div", *ticks, class_="y"),
        plot,
        below,
        tag("div", x_name, class_="xname"),
        class_="plot",
    )


def svg(*marks: Markup) -> Markup:
    """A drawing of 100 by 100 that fills whatever room it gets."""
    return tag("svg", *marks, viewBox="0 0 100 100", preserveAspectRatio="none", role="img")


def legend(colours: Mapping[str, str]) -> Markup:
    """Names beside their colours."""
    return tag(
        "p",
        *[tag("span", tag("i", class_=colour), name) for name, colour in colours.items()],
        class_="legend",
    )


def number(value: float, digits: int = 4) -> str:
    """A tick's text, of so many significant digits; whole numbers below a million in full."""
    if value == round(value) and abs(value) < 1e6:
        text = f"{value:.0f}"
    elif value and not 1e-3 <= abs(value) < 1e5:
        text = f"{value:.{digits - 2}e}".replace("e-0", "e-").replace("e+0", "e")
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "−")


def _grid(axis: Scale) -> Markup:
    heights = [100 - axis.place(tick) for tick in axis.ticks]
    return join(*[tag("line", x1=0, x2=100, y1=f"{y:.2f}", y2=f"{y:.2f}", class_="grid") for y in heights])


def _rectangle(x: float, y: float, width: float, height: float, kind: str, title: str) -> Markup:
    size = {"x": f"{x:.3f}", "y": f"{y:.3f}", "width": f"{width:.3f}", "height": f"{height:.3f}"}
    return tag("rect", tag("title", title), class_=kind, **size)


def _cell(name: str, layer: int, share: float | None, top: float, gone: bool) -> Markup:
    if share is None:
        return tag("i", style="--share:0%", title=f"layer {layer}, {name}: all kept")
    said = "layer removed" if gone else f"{100 * share:.1f} % removed"
    return tag("i", style=f"--share:{100 * share / top:.1f}%", title=f"layer {layer}, {name}: {said}")


def _edges(edges: Iterable[str]) -> Markup:
    """Texts from the left end of an axis to its right end."""
    return tag("div", *[tag("span", edge) for edge in edges], class_="x")


def _layers(length: int) -> Markup:
    """Numbers of a few of `length` layers, each below the middle of its layer's mark."""
    numbers = [
        tag("span", str(layer), style=f"left:{100 * (layer + 0.5) / length:.2f}%")
        for layer in _spread(length)
    ]
    return tag("div", *numbers, class_="x layers")


def _spread(length: int, most: int = 6) -> list[int]:
    """First, last and a few even steps between of `length` positions."""
    steps = min(length, most)
    return sorted({round(step * (length - 1) / max(1, steps - 1)) for step in range(steps)})
