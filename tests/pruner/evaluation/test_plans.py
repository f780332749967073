import io
import re
from dataclasses import replace

import pytest
import rich.console

from pruner.evaluation.plans import difference_table, plan_table
from pruner.plan import GroupPlan, PruningPlan

PLAN = PruningPlan(
    model={
        "architecture": "A",
        "fingerprint": "f",
        "decoder_parameters": 90,
        "parameters": 100,
        "num_layers": 3,
    },
    groups={
        "layers.0.mlp": GroupPlan("mlp", 0, 8, (0, 1, 2, 3)),
        "layers.2.mlp": GroupPlan("mlp", 2, 8, tuple(range(8))),
        "layers.2.attention": GroupPlan("attention", 2, 4, (1,)),
    },
    criterion="l2",
    budget={"ratio": 0.2, "reached_ratio": 0.21, "reached_ratio_of_all": 0.19, "parameters": 81},
)


def printed(table, width=160):
    console = rich.console.Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_a_plan_shows_every_layers_widths_as_bars_of_their_share():
    rows = printed(plan_table(PLAN)).splitlines()[-3:]
    assert [row.count("█") for row in rows] == [12, 0, 24 + 6]
    assert re.search(r"1 of 4", rows[2])
    assert re.search(r"1\s+–\s+–", rows[1])


def test_a_difference_names_the_groups_that_part_and_what_both_keep():
    groups = {**PLAN.groups, "layers.0.mlp": GroupPlan("mlp", 0, 8, (2, 3, 4))}
    del groups["layers.2.attention"]
    lines = printed(difference_table(PLAN, replace(PLAN, groups=groups))).splitlines()[-2:]
    assert [re.findall(r"\d+", line) for line in lines] == [
        ["0", "8", "4", "3", "2"],
        ["2", "4", "1", "4", "1"],
    ]


def test_equal_plans_are_said_to_be_equal():
    assert "every group keeps the same units" in printed(difference_table(PLAN, PLAN))


def test_plans_of_different_models_are_not_compared():
    with pytest.raises(ValueError, match="different models"):
        difference_table(PLAN, replace(PLAN, model={**PLAN.model, "fingerprint": "g"}))


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({}, "20.00% of the decoder"),
        ({"layers": 2}, "20.00% of the decoder, of it 2 whole layers"),
        ({"layers": 2, "ratio": None}, "2 whole layers"),
        ({"target_bytes": 5000}, "5,000 bytes in all"),
        ({"target_macs": 5000}, "5,000 multiply-accumulates for each token"),
        ({"layers": 1}, "20.00% of the decoder, of it 1 whole layer"),
        ({"ratio": None, "widths": {"mlp": 8, "attention": 1}}, "8 mlp, 1 attention a layer"),
        ({"ratio": None, "widths": {"mlp": 8}, "layers": 1}, "8 mlp a layer, and without 1 whole layer"),
        ({"target_latency": 0.002}, "0.002 s for each token"),
    ],
)
def test_a_budget_is_said_in_the_terms_it_was_asked_in(budget, words):
    shown = printed(plan_table(replace(PLAN, budget={**PLAN.budget, **budget})))
    assert re.search(rf"asked +{re.escape(words)} *\n", shown)


def test_a_plan_shows_which_layers_go():
    groups = {**PLAN.groups, "layers": GroupPlan("layer", None, 4, (0, 2, 3), (3.0, 0.1, 2.0, 1.0))}
    rows = printed(plan_table(replace(PLAN, groups=groups))).splitlines()[-4:]
    assert [row.count("gone") for row in rows] == [0, 2, 0, 0]
    assert [row.count("–") for row in rows] == [1, 0, 0, 2]


def test_layers_that_go_alone_have_a_column_of_their_own():
    groups = {"layers": GroupPlan("layer", None, 3, (0, 2), (3.0, 0.1, 2.0))}
    head, *rows = printed(plan_table(replace(PLAN, groups=groups))).splitlines()[-4:]
    assert "whole layer" in head
    assert ["gone" in row for row in rows] == [False, True, False]


def test_layers_that_a_plan_does_not_name_are_listed_too():
    shown = printed(plan_table(replace(PLAN, model={**PLAN.model, "num_layers": 5})))
    assert [line.split() for line in shown.splitlines()[-2:]] == [["3", "–", "–"], ["4", "–", "–"]]


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"macs": 1234567.0}, "1,234,567 multiply-accumulates for each token"),
        ({"latency": 0.00123456}, "0.001235 s for each token"),
    ],
)
def test_what_a_measured_budget_has_come_to_is_said_in_its_own_terms(measured, words):
    lines = printed(plan_table(PLAN.with_budget(measured))).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("reached"))
    assert "21.00%" in lines[at]
    assert lines[at + 1].strip() == words
    assert "for each token" not in printed(plan_table(PLAN))


@pytest.mark.parametrize("kinds", [["mlp"], ["mlp", "attention"], ["mlp", "attention", "expert"]])
def test_a_row_fits_a_terminal_of_80_columns(kinds):
    groups = {kind: GroupPlan(kind, 79, 14336, tuple(range(9000))) for kind in kinds}
    text = {"num_samples": 128, "seq_len": 2048, "seed": 0, "path": "/a/b" * 20 + "/c4.jsonl"}
    calibration = {**text, "fingerprint": "b45e1427035f7b4b"}
    groups["layers"] = GroupPlan("layer", None, 80, tuple(range(1, 80)))
    plan = replace(PLAN, groups=groups, calibration=calibration)
    wide, narrow = printed(plan_table(plan)), printed(plan_table(plan), width=80)
    assert [line.rstrip() for line in narrow.splitlines()] == [line.rstrip() for line in wide.splitlines()]
    assert "128 × 2048 tokens of c4.jsonl, seed 0 (b45e1427035f7b4b)" in narrow
