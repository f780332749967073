"""Removal in rounds, each scored on what is left."""

import copy

import pytest
import torch

from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.checkpoint import load_model, load_tokenizer
from pruner.discovery import discover
from pruner.importance import estimate_importance
from pruner.pipeline import PruningSettings, prune
from pruner.plan import PruningPlan
from pruner.selection import lowest
from pruner.surgery import remove

IDS = torch.arange(40).view(4, 10) + 3


@pytest.fixture
def stories(data):
    return load_model(data / "stories260K"), load_tokenizer(data / "stories260K")


@pytest.fixture
def settings(data):
    text = Calibration(str(data / "calibration" / "c4_200.jsonl"), num_samples=8, seq_len=32)

    def make(rounds, budget=Budget(0.4, 1), **others):
        values = {"criterion": "taylor_first", "compensation": None, "protect_first": 1, "protect_last": 1}
        return PruningSettings(budget, calibration=text, rounds=rounds, **{**values, **others})

    return make


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("budget", [Budget(0.4, 1), Budget(0.4, 1, layers=1)], ids=["widths", "and a layer"])
@pytest.mark.parametrize("granularity", ["block", "global"])
def test_a_plan_made_in_rounds_gives_the_model_at_once(stories, settings, tmp_path, granularity, budget):
    dense, tokenizer = stories
    pruned, replayed = copy.deepcopy(dense), copy.deepcopy(dense)
    plan = prune(pruned, tokenizer, settings(3, budget, granularity=granularity))
    assert plan.budget["reached_ratio"] == pytest.approx(0.4, abs=0.01)
    plan.save(tmp_path / "plan.json")
    prune(replayed, tokenizer, settings(1, plan=str(tmp_path / "plan.json")))
    assert torch.equal(logits(replayed), logits(pruned))
    assert PruningPlan.load(tmp_path / "plan.json").kept == plan.kept


def test_the_second_round_scores_what_the_first_has_left(stories, settings):
    """Against two removals made by hand, of MLP channels alone."""
    dense, tokenizer = stories
    one = copy.deepcopy(dense)
    plan = prune(one, tokenizer, settings(2, kinds=("mlp",), criterion="l2"))
    gone = {name: share.num_units - len(share.kept) for name, share in plan.groups.items()}
    by_hand = copy.deepcopy(dense)
    first = prune(by_hand, tokenizer, settings(1, Budget(0.2, 1), kinds=("mlp",), criterion="l2"))
    groups = [group for group in discover(by_hand).groups if group.name in plan.groups]
    scores = estimate_importance(by_hand, groups, None, "l2")
    already = {name: share.num_units - len(share.kept) for name, share in first.groups.items()}
    rest = {name: lowest(scores[name], gone[name] - already[name]) for name in gone}
    remove(by_hand, groups, rest)
    assert torch.equal(logits(by_hand), logits(one))


def test_rounds_change_what_goes(stories, settings):
    dense, tokenizer = stories
    plans = [prune(copy.deepcopy(dense), tokenizer, settings(rounds)) for rounds in (1, 4)]
    assert plans[0].kept != plans[1].kept


def test_rounds_come_down_to_the_widths_that_are_asked_for_step_by_step(stories, settings):
    dense, tokenizer = stories
    budget = Budget(widths={"mlp": 60, "attention": 2}, round_to=4)
    plans = [prune(copy.deepcopy(dense), tokenizer, settings(rounds, budget)) for rounds in (1, 3)]
    for plan in plans:
        assert {(share.kind, len(share.kept)) for share in plan.groups.values()} == {
            ("mlp", 60),
            ("attention", 2),
        }
    assert plans[0].kept != plans[1].kept


def test_widths_of_a_global_threshold_are_refused():
    with pytest.raises(ValueError, match="granularity 'global' lets layers differ"):
        PruningSettings(Budget(widths={"mlp": 60}), granularity="global")


def test_rounds_with_a_refit_are_refused():
    with pytest.raises(ValueError, match="rounds must be at least 1, and 1 with compensation"):
        PruningSettings(rounds=2)


@pytest.mark.parametrize("round_to", [16, 32, 43])
def test_steps_too_coarse_for_a_part_of_the_budget_are_waited_for(stories, settings, round_to):
    """A quarter of it may be less than one step, where the whole is not."""
    dense, tokenizer = stories
    plans = [
        prune(copy.deepcopy(dense), tokenizer, settings(rounds, Budget(0.3, round_to))) for rounds in (1, 4)
    ]
    for plan in plans:
        assert plan.budget["reached_ratio"] == pytest.approx(0.3, rel=0.1)
