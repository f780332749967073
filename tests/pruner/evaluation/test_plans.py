import io
import re
from dataclasses import replace

import pytest
import rich.console

from pruner.evaluation.plans import difference_table, plan_table
from pruner.plan import GroupPlan, PruningPlan

PLAN = PruningPlan(
    model={"architecture": "A", "fingerprint": "f", "decoder_parameters": 90, "parameters": 100},
    groups={
        "layers.0.mlp": GroupPlan("mlp", 0, 8, (0, 1, 2, 3)),
        "layers.2.mlp": GroupPlan("mlp", 2, 8, tuple(range(8))),
        "layers.2.attention": GroupPlan("attention", 2, 4, (1,)),
    },
    criterion="l2",
    budget={"ratio": 0.2, "reached_ratio": 0.21, "reached_ratio_of_all": 0.19, "parameters": 81},
)


def printed(table):
    console = rich.console.Console(width=160, record=True, file=io.StringIO())
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
        ({"ratio": None, "widths": {"mlp": 8, "attention": 1}}, "8 mlp, 1 attention a layer"),
        ({"target_latency": 0.002}, "0.002 s for each token"),
    ],
)
def test_a_budget_is_said_in_the_terms_it_was_asked_in(budget, words):
    shown = printed(plan_table(replace(PLAN, budget={**PLAN.budget, **budget})))
    assert re.search(rf"asked +{re.escape(words)} *\n", shown)


def test_a_plan_shows_which_layers_go():
    groups = {**PLAN.groups, "layers": GroupPlan("layer", None, 3, (0, 2), (3.0, 0.1, 2.0))}
    rows = printed(plan_table(replace(PLAN, groups=groups))).splitlines()[-3:]
    assert ["0 of 1" in row for row in rows] == [False, True, False]
