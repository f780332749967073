import dataclasses
import json

import numpy as np
import pytest

from pruner.groups import Group, Slice
from pruner.plan import GroupPlan, PruningPlan, structure_fingerprint

GROUPS = [Group("layers.0.mlp", "mlp", 0, 8, (Slice("up", 0, np.arange(8)[:, None], False),))]
PRINT = structure_fingerprint("LlamaForCausalLM", {"up": (8, 4)})
PLAN = PruningPlan(
    model={"architecture": "LlamaForCausalLM", "fingerprint": PRINT},
    groups={"layers.0.mlp": GroupPlan("mlp", 0, 8, (0, 2, 5), (0.1, 0.0, 0.5, 0.0, 0.0, 0.25, 0.0, 0.0))},
    criterion="taylor_first",
    budget={"ratio": 0.5},
)


def with_share(**changes):
    share = dataclasses.replace(PLAN.groups["layers.0.mlp"], **changes)
    return dataclasses.replace(PLAN, groups={"layers.0.mlp": share})


def test_a_plan_survives_the_disk(tmp_path):
    PLAN.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == PLAN


def test_a_plan_is_plain_json_that_names_what_is_kept(tmp_path):
    PLAN.save(tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text())["groups"]["layers.0.mlp"]["kept"] == [0, 2, 5]


def test_a_plan_fits_the_model_it_was_made_for():
    PLAN.check(GROUPS, PRINT)


@pytest.mark.parametrize(
    ("plan", "fingerprint", "message"),
    [
        (with_share(num_units=9), PRINT, "layers.0.mlp.*9.*8"),
        (with_share(kept=(0, 8)), PRINT, "ascend within 0..7"),
        (with_share(kept=(2, 0)), PRINT, "ascend"),
        (with_share(kept=(2, 2)), PRINT, "ascend"),
        (
            dataclasses.replace(PLAN, groups={"layers.9.mlp": PLAN.groups["layers.0.mlp"]}),
            PRINT,
            "layers.9.mlp",
        ),
        (PLAN, "0" * 16, "other parameters"),
    ],
)
def test_a_plan_for_another_model_is_refused_where_it_first_differs(plan, fingerprint, message):
    with pytest.raises(ValueError, match=message):
        plan.check(GROUPS, fingerprint)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "groups": {"a": {}}}'])
def test_what_is_not_a_plan_is_refused_with_its_path(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json"):
        PruningPlan.load(tmp_path / "plan.json")


def test_a_missing_plan_says_what_writes_one(tmp_path):
    with pytest.raises(ValueError, match="llm-prune prune"):
        PruningPlan.load(tmp_path / "none.json")


def test_the_fingerprint_follows_every_shape():
    assert structure_fingerprint("A", {"w": (2, 3)}) != structure_fingerprint("A", {"w": (3, 2)})
    assert structure_fingerprint("A", {"w": (2, 3)}) != structure_fingerprint("B", {"w": (2, 3)})
