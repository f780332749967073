import copy
import json

import pytest

import cli
from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.pipeline import PruningSettings, prune
from pruner.pipeline.preview import preview


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.jsonl"
    words = "Once upon a time there was a little girl who had a red ball and a big dog. "
    file.write_text("".join(json.dumps({"text": words * (2 + i)}) + "\n" for i in range(12)))
    return Calibration(str(file), num_samples=8, seq_len=32)


def settings(text, ratio, **changes):
    return PruningSettings(
        budget=Budget(ratio, 1), calibration=text, protect_first=1, protect_last=1, **changes
    )


def num_kept(plan):
    return {name: len(units) for name, units in plan.kept.items()}


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_a_preview_has_the_widths_that_pruning_reaches(stories, data, text, ratio):
    model, tokenizer = stories
    asked = settings(text, ratio)
    foreseen = preview(str(data / "stories260K"), asked)
    made = prune(model, tokenizer, asked)
    assert num_kept(foreseen) == num_kept(made)
    assert foreseen.model == made.model
    assert foreseen.budget == made.budget


@pytest.mark.parametrize("granularity", ["block", "global"])
def test_a_preview_on_a_plans_scores_keeps_the_units_that_pruning_keeps(stories, data, text, granularity):
    model, tokenizer = stories
    scored, asked = (
        settings(text, ratio, criterion="gate_fisher", compensation=None, granularity=granularity)
        for ratio in (0.1, 0.4)
    )
    earlier = prune(copy.deepcopy(model), tokenizer, scored)
    assert preview(str(data / "stories260K"), asked, earlier).kept == prune(model, tokenizer, asked).kept


def test_a_threshold_cannot_be_previewed_without_scores_for_what_it_compares(stories, data, text):
    model, tokenizer = stories
    earlier = prune(model, tokenizer, settings(text, 0.1, criterion="gate_fisher", compensation=None))
    asked = PruningSettings(protect_first=0, protect_last=0, granularity="global")
    with pytest.raises(ValueError, match=r"no scores for 'model.layers.0.*prunes these layers"):
        preview(str(data / "stories260K"), asked, earlier)


def test_a_plan_by_the_default_tells_what_more_would_take(stories, data, text, caplog):
    """It scores the groups that lose units; in the others, how many go is foreseen, and it says so."""
    model, tokenizer = stories
    earlier = prune(model, tokenizer, settings(text, 0.1))
    unseen = [name for name, share in earlier.groups.items() if share.scores is None]
    foreseen = preview(str(data / "stories260K"), settings(text, 0.4), earlier)
    assert foreseen.budget["reached_ratio"] == pytest.approx(0.4, abs=0.01)
    assert unseen
    assert "how many go is foreseen, not which" in caplog.text
    for name, share in earlier.groups.items():
        if name not in unseen:
            lowest = sorted(range(share.num_units), key=lambda unit: share.scores[unit])
            gone = share.num_units - len(foreseen.kept[name])
            assert set(foreseen.kept[name]) == set(lowest[gone:])


def test_plans_are_shown_compared_and_previewed_from_the_command_line(data, tmp_path, capsys):
    folder = str(data / "stories260K")
    plans = [tmp_path / "a.json", tmp_path / "b.json"]
    for plan, ratio in zip(plans, ("0.2", "0.4")):
        words = [f"--pruner.budget.ratio={ratio}", "--pruner.protect_first=1", "--pruner.protect_last=1"]
        assert cli.main(["plan", "preview", folder, *words, f"--output={plan}"]) == 0
    capsys.readouterr()
    assert cli.main(["plan", "show", str(plans[0])]) == 0
    assert "20.00%" in capsys.readouterr().out
    assert cli.main(["plan", "diff", *map(str, plans)]) == 0
    assert "MLP channels" in capsys.readouterr().out
    assert cli.main(["plan", "show", str(tmp_path / "none.json")]) == 2
    assert "no plan at" in capsys.readouterr().err
