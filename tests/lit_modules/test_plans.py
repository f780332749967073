import json
import shutil

import pytest

import cli
from pruner.plan import GroupPlan, PruningPlan

PLAN = PruningPlan(
    model={
        "architecture": "A",
        "fingerprint": "f",
        "decoder_parameters": 90,
        "parameters": 100,
        "num_layers": 4,
    },
    groups={"layers.1.mlp": GroupPlan("mlp", 1, 8, (0, 1, 2, 3))},
    criterion="l2",
    budget={"ratio": 0.2, "reached_ratio": 0.21, "reached_ratio_of_all": 0.19, "parameters": 81},
)


@pytest.fixture
def run(tmp_path):
    """A run folder with a plan."""
    PLAN.save(tmp_path / "run" / "plan.json")
    return tmp_path / "run"


@pytest.mark.parametrize("named", [".", "plan.json"])
def test_a_plan_is_named_by_its_run_folder_or_its_file_and_lists_all_layers(run, named, capsys):
    assert cli.main(["plan", "show", str(run / named)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown[-2:]] == [["2", "–"], ["3", "–"]]


def test_run_folders_are_compared_too(run, capsys):
    assert cli.main(["plan", "diff", str(run), str(run / "plan.json")]) == 0
    assert "every group keeps the same units" in capsys.readouterr().out


def test_a_folder_without_a_plan_is_named(tmp_path, capsys):
    assert cli.main(["plan", "show", str(tmp_path)]) == 2
    assert f"no plan at {tmp_path / 'plan.json'}" in capsys.readouterr().err


@pytest.fixture
def preview(stories, capsys):
    """Preview a budget of a model, by default the stories; returns what was printed."""

    def run(*words, model=stories, ratio=0.2):
        protected = ["--pruner.protect_first=1", "--pruner.protect_last=2"]
        budget = f"--pruner.budget.ratio={ratio}"
        assert cli.main(["plan", "preview", str(model), budget, *protected, *map(str, words)]) == 0
        return capsys.readouterr().out

    return run


def test_a_preview_lists_the_protected_layers_at_the_end_too(preview):
    rows = [line.split() for line in preview().splitlines()[-5:]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row[1:] == ["–", "–"] for row in rows] == [True, False, False, True, True]


def test_a_preview_needs_the_configuration_alone(preview, stories, tmp_path):
    shutil.copy(f"{stories}/config.json", tmp_path)
    assert preview(model=tmp_path) == preview()


def test_a_preview_on_a_plans_scores_names_their_criterion_and_text(preview, tmp_path):
    preview(f"--output={tmp_path / 'plan.json'}")
    raw = json.loads((tmp_path / "plan.json").read_text())
    for share in raw["groups"].values():
        share["scores"] = [float(unit) for unit in range(share["num_units"])]
    text = {
        "num_samples": 8,
        "seq_len": 32,
        "seed": 0,
        "path": "x/c4.jsonl",
        "fingerprint": "0123456789abcdef",
    }
    (tmp_path / "plan.json").write_text(json.dumps({**raw, "criterion": "gate_fisher", "calibration": text}))
    shown = preview(f"--scored={tmp_path}", f"--output={tmp_path / 'other.json'}", ratio=0.3)
    assert "gate_fisher" in shown
    assert "8 × 32 tokens of c4.jsonl, seed 0 (0123456789abcdef)" in shown
    assert PruningPlan.load(tmp_path / "other.json").calibration == text
