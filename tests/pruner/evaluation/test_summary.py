import io

import pytest
from rich.console import Console

from pruner.evaluation.summary import figures, terminal_table

MODELS = {
    "dense": {
        "perplexity": {"values": {"wiki": {"value": 40.0}}},
        "tasks": {"values": {"piqa": {"acc": {"value": 0.64, "stderr": 0.034, "num_items": 200}}}},
        "size": {"parameters": 134_515_008, "weight_bytes": 538_060_032},
    },
    "pruned": {
        "perplexity": {"values": {"wiki": {"value": 120.0}}},
        "tasks": {"values": {"piqa": {"acc": {"value": 0.54, "stderr": None, "num_items": 200}}}},
        "size": {"parameters": 107_612_006},
    },
    "unmeasured": {},
}


@pytest.fixture
def by_name():
    return {figure.name: figure for figure in figures(MODELS)}


def test_quality_comes_before_cost(by_name):
    assert list(by_name) == ["perplexity, wiki", "piqa acc", "parameters", "weights in memory"]


def test_a_quantity_is_compared_as_a_factor_and_a_share_in_points(by_name):
    assert by_name["perplexity, wiki"].change("pruned", "dense") == "× 3.00"
    assert by_name["parameters"].change("pruned", "dense") == "× 0.80"
    assert by_name["piqa acc"].change("pruned", "dense") == "−10.0 pts"


def test_values_are_shown_in_the_units_that_people_read(by_name):
    assert by_name["parameters"].show("dense") == "134.5 M"
    assert by_name["weights in memory"].show("dense") == "513.1 MiB"
    assert by_name["piqa acc"].show("dense") == "64.0 % ± 3.4"
    assert by_name["piqa acc"].show("pruned") == "54.0 %"


def test_what_was_not_measured_is_shown_as_missing_and_compared_with_nothing(by_name):
    assert by_name["weights in memory"].show("pruned") == "–"
    assert by_name["weights in memory"].change("pruned", "dense") == ""
    assert by_name["perplexity, wiki"].show("unmeasured") == "–"


def test_the_terminal_shows_every_figure_of_every_model():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal_table(MODELS))
    text = console.export_text()
    for part in ("dense", "pruned", "unmeasured", "perplexity, wiki", "120.00", "× 3.00", "64.0 % ± 3.4"):
        assert part in text


def test_labels_are_not_read_as_terminal_markup():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal_table({"[red]x": {"size": {"parameters": 5}}}))
    assert "[red]x" in console.export_text()
