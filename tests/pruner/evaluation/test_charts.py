import re
from importlib.resources import files

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pruner.evaluation.charts import bars, columns, heat_map, histogram, lines, number, scale

TEMPLATE = files("pruner.evaluation").joinpath("report_template.html").read_text(encoding="utf-8")
FINITE = st.floats(-1e9, 1e9, allow_nan=False)


def rectangles(chart):
    found = re.findall(
        r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', chart
    )
    return [(kind, *map(float, numbers)) for kind, *numbers in found]


@example([5e-324], False)
@example([1e9, 1e9 + 1e-6], False)
@given(st.lists(FINITE, min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_every_value_between_its_ends(values, from_zero):
    axis = scale(values, from_zero)
    assert all(-1e-6 <= axis.place(value) <= 100 + 1e-6 for value in values)
    assert 2 <= len(axis.ticks) <= 7


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_an_axis_of_counts_has_whole_ticks(counts):
    axis = scale(counts, from_zero=True, whole=True)
    assert all(tick == round(tick) for tick in axis.ticks)
    assert all(0 <= axis.place(count) <= 100 + 1e-6 for count in counts)
    assert 2 <= len(axis.ticks) <= 6


@pytest.mark.parametrize("chart", [columns([1], [2], "m2"), histogram({"kept": ([1.0] * 2, "m2")}, "score")])
def test_counts_are_drawn_on_an_axis_of_whole_numbers(chart):
    (ticks,) = re.findall(r'<div class="y">(.*?)</div>', chart)
    assert re.findall(r"[\d.]+", ticks) == ["2", "1", "0"]


@pytest.mark.parametrize("layers", [1, 5, 80])
@pytest.mark.parametrize("chart", [heat_map, columns])
def test_a_layers_number_stands_below_the_middle_of_its_mark(layers, chart):
    if chart is columns:
        drawn = columns([1] * layers, [2] * layers, "m2")
        middles = [left + width / 2 for kind, left, _, width, _ in rectangles(drawn) if kind == "m2"]
    else:
        drawn = heat_map({"MLP": [0.5] * layers})
        middles = [100 * (layer + 0.5) / layers for layer in range(drawn.count("<i style"))]
    numbers = re.findall(r'<span style="left:([\d.]+)%">(\d+)</span>', drawn)
    assert len(numbers) == min(layers, 6)
    assert all(float(left) == pytest.approx(middles[int(layer)], abs=0.02) for left, layer in numbers)


def test_the_cells_of_a_heat_map_share_the_whole_width_that_its_numbers_spread_over():
    (cells,) = re.findall(r"\.cells i \{(.*)\}", TEMPLATE)
    assert "flex: 1" in cells
    assert "max-width" not in cells
    assert re.search(r"\.layers span \{ position: absolute; transform: translateX\(-50%\) \}", TEMPLATE)


def test_a_layer_that_was_removed_whole_is_drawn_and_named_as_gone():
    *_, gone, kept = rectangles(columns([6, 0], [6, 6], "m2", gone=(1,)))
    assert (gone[4], kept[4]) == (100, 0)
    assert "<title>layer 1: 0 of 6, layer removed</title>" in columns([6, 0], [6, 6], "m2", gone=(1,))
    chart = heat_map({"MLP": [None, 1.0]}, gone=(1,))
    assert 'style="--share:100.0%" title="layer 1, MLP: layer removed"' in chart


@pytest.mark.parametrize("layers", [1, 2, 30, 126])
def test_every_layer_has_its_column_and_all_fit_side_by_side(layers):
    drawn = rectangles(columns([64] * layers, [128] * layers, "m2"))
    kept = [mark for mark in drawn if mark[0] == "m2"]
    assert len(kept) == layers
    assert all(height == pytest.approx(kept[0][4]) for *_, height in kept)
    lefts = [mark[1] for mark in kept]
    assert lefts == sorted(lefts)
    assert all(left + kept[0][3] <= following for left, following in zip(lefts, [*lefts[1:], 100]))


def test_a_column_is_as_high_as_its_share_of_the_dense_one():
    gone, kept = rectangles(columns([30], [120], "m2"))
    assert kept[4] == pytest.approx(gone[4] / 4, abs=1e-2)
    assert kept[2] + kept[4] == pytest.approx(100)


def test_a_layer_that_a_plan_leaves_out_stands_at_its_full_width():
    gone, kept = rectangles(columns([None], [120], "m2"))
    assert kept[4] == gone[4]


@pytest.mark.parametrize("layers", [1, 126])
def test_a_heat_map_has_a_cell_for_every_layer_and_kind(layers):
    chart = heat_map({"MLP": [0.5] * layers, "attention": [None] * layers})
    assert chart.count("--share:100.0%") == layers
    assert chart.count("--share:0%") == layers


def test_a_histogram_counts_every_value_once():
    chart = histogram({"kept": ([1.0, 2.0, 2.0, 3.0], "m2"), "removed": ([0.0, 0.0], "removed")}, "score")
    titles = re.findall(r"<title>(\d+) (\w+)</title>", chart)
    assert sum(int(count) for count, name in titles if name == "kept") == 4
    assert sum(int(count) for count, name in titles if name == "removed") == 2


def test_equal_values_have_a_histogram_too():
    assert "<title>3 kept</title>" in histogram({"kept": ([5.0] * 3, "m2")}, "score")


def test_a_lone_point_is_drawn_as_a_level():
    (points,) = re.findall(r'points="([^"]+)"', lines({"loss": ([(7, 2.5)], "m2")}, "step"))
    (left, at), (right, still) = (pair.split(",") for pair in points.split())
    assert (left, right) == ("0", "100")
    assert at == still


def test_a_falling_curve_falls_on_the_page():
    (points,) = re.findall(
        r'points="([^"]+)"', lines({"loss": ([(0, 4.0), (5, 3.0), (9, 1.0)], "m2")}, "step")
    )
    heights = [float(pair.split(",")[1]) for pair in points.split()]
    assert heights == sorted(heights)


def test_bars_are_as_long_as_their_values():
    chart = bars({"dense": (8.0, "8", "m0"), "pruned": (2.0, "2", "m1")})
    assert re.findall(r"width:([\d.]+)%", chart) == ["100.00", "25.00"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (20000, "20000"), (0.30000000000000004, "0.3"), (-1.5, "−1.5"), (2.5e-7, "2.50e−7")],
)
def test_ticks_are_short(value, text):
    assert number(value) == text


def test_the_parts_of_a_bin_stand_on_one_another():
    kept, removed = rectangles(histogram({"kept": ([5.0] * 3, "m2"), "removed": ([5.0], "removed")}, "score"))
    assert removed[2] + removed[4] == pytest.approx(kept[2])
    assert kept[2] + kept[4] == pytest.approx(100)
