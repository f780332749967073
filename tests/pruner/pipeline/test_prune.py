import copy
import json

import pytest
import torch

from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.compensation import Compensation
from pruner.pipeline import PruningSettings, prune
from pruner.plan import PruningPlan


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.jsonl"
    words = "Once upon a time there was a little girl who had a red ball and a big dog. "
    file.write_text("".join(json.dumps({"text": words * (2 + i)}) + "\n" for i in range(12)))
    return Calibration(str(file), num_samples=8, seq_len=32)


def settings(text, **changes):
    return PruningSettings(**{"calibration": text, "protect_first": 1, "protect_last": 1, **changes})


def decoder_size(model):
    return sum(parameter.numel() for parameter in model.model.layers.parameters())


def test_pruning_removes_the_share_asked_for_and_the_model_still_runs(stories, text):
    model, tokenizer = stories
    before = decoder_size(model)
    plan = prune(model, tokenizer, settings(text, budget=Budget(0.2, 1)))
    assert decoder_size(model) / before == pytest.approx(0.8, abs=3 * 64 / before)
    assert plan.budget["reached_ratio"] == pytest.approx(1 - decoder_size(model) / before)
    assert plan.budget["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert model(torch.arange(10)[None]).logits.isfinite().all()


def assert_equal(ours, theirs):
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters()):
        assert torch.equal(one, other), name


def test_a_plan_replayed_without_text_removes_the_same_units(stories, text, tmp_path):
    model, tokenizer = stories
    again = copy.deepcopy(model)
    plan = prune(model, tokenizer, settings(text, criterion="taylor_first", compensation=None))
    plan.save(tmp_path / "plan.json")
    replayed = prune(again, tokenizer, PruningSettings(plan=str(tmp_path / "plan.json")))
    assert replayed == plan
    assert_equal(model, again)


def test_a_replay_without_text_says_that_compensation_was_left_out(stories, text, tmp_path, caplog):
    model, tokenizer = stories
    plan = prune(copy.deepcopy(model), tokenizer, settings(text))
    plan.save(tmp_path / "plan.json")
    replayed = prune(model, tokenizer, PruningSettings(plan=str(tmp_path / "plan.json")))
    assert replayed.kept == plan.kept
    assert plan.compensation
    assert not replayed.compensation
    assert "compensation is left out" in caplog.text


def test_a_replay_with_the_same_text_gives_the_same_model(stories, text, tmp_path):
    model, tokenizer = stories
    again = copy.deepcopy(model)
    prune(model, tokenizer, settings(text)).save(tmp_path / "plan.json")
    anew = Calibration(text.path)
    prune(again, tokenizer, PruningSettings(plan=str(tmp_path / "plan.json"), calibration=anew))
    assert_equal(model, again)


@pytest.mark.parametrize(
    ("then", "unknown"),
    [({"epochs": 0}, ("epochs", "divergence", "learning_rate")), ({"divergence": 1.0}, ("divergence",))],
)
def test_a_plan_of_an_older_release_is_replayed_as_it_was_made(stories, text, tmp_path, then, unknown):
    model, tokenizer = stories
    again, file = copy.deepcopy(model), tmp_path / "plan.json"
    prune(model, tokenizer, settings(text, compensation=Compensation(**then))).save(file)
    plan = json.loads(file.read_text())
    for name in unknown:
        del plan["compensation"][name]
    file.write_text(json.dumps(plan))
    prune(again, tokenizer, PruningSettings(plan=str(file), calibration=Calibration(text.path)))
    assert_equal(model, again)


def test_a_replay_with_other_text_is_refused_and_nothing_is_cut(stories, text, tmp_path):
    model, tokenizer = stories
    prune(copy.deepcopy(model), tokenizer, settings(text)).save(tmp_path / "plan.json")
    other = tmp_path / "other.txt"
    other.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    before = decoder_size(model)
    with pytest.raises(ValueError, match="give that text, or none"):
        prune(
            model,
            tokenizer,
            PruningSettings(plan=str(tmp_path / "plan.json"), calibration=Calibration(str(other))),
        )
    assert decoder_size(model) == before


def test_a_plan_of_another_model_is_refused_and_nothing_is_cut(stories, tiny, text, tmp_path):
    model, tokenizer = stories
    prune(copy.deepcopy(model), tokenizer, settings(text)).save(tmp_path / "plan.json")
    before = decoder_size(tiny)
    with pytest.raises(ValueError, match=r"group 'model.layers.\d.*this model has"):
        prune(tiny, tokenizer, PruningSettings(plan=str(tmp_path / "plan.json")))
    assert decoder_size(tiny) == before


def test_a_plan_tells_why(stories, text, tmp_path):
    model, tokenizer = stories
    plan = prune(model, tokenizer, settings(text, criterion="taylor_first"))
    plan.save(tmp_path / "plan.json")
    plan = PruningPlan.load(tmp_path / "plan.json")
    assert plan.criterion == "taylor_first"
    assert plan.calibration["num_samples"] == 8
    assert len(plan.calibration["fingerprint"]) == 16
    for share in plan.groups.values():
        gone = set(range(share.num_units)) - set(share.kept)
        if gone:
            assert max(share.scores[unit] for unit in gone) <= min(share.scores[unit] for unit in share.kept)


def test_the_same_settings_cut_the_same_units(stories, text):
    model, tokenizer = stories
    first = prune(copy.deepcopy(model), tokenizer, settings(text))
    assert prune(model, tokenizer, settings(text)) == first


def test_text_that_is_too_short_leaves_the_model_alone(stories, text):
    model, tokenizer = stories
    before = decoder_size(model)
    with pytest.raises(ValueError, match="too short for 8 samples of 4000 tokens"):
        prune(model, tokenizer, settings(Calibration(text.path, 8, 4000)))
    assert decoder_size(model) == before


def test_an_unknown_criterion_is_refused_before_any_model_is_loaded():
    with pytest.raises(ValueError, match="no criterion 'tailor'; there are random, "):
        PruningSettings(criterion="tailor")


def test_a_model_is_pruned_and_replayed_on_text_of_its_own(stories, tmp_path):
    model, tokenizer = stories
    again = copy.deepcopy(model)
    own = Calibration("self", num_samples=8, seq_len=32)
    prune(model, tokenizer, settings(own)).save(tmp_path / "plan.json")
    prune(again, tokenizer, PruningSettings(plan=str(tmp_path / "plan.json"), calibration=own))
    assert_equal(model, again)
