"""The law of surgery: removing a group equals zeroing it."""

import copy
import sys
from pathlib import Path

import pytest
import torch

from pruner.discovery import discover
from pruner.groups import count_parameters, shapes_of
from pruner.surgery import remove, zero

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from tiny_configs import InDouble, tiny_model

ARCHITECTURES = ["llama", "qwen2", "gpt2", "bloom", "olmo2", "gpt_neox", "phi3"]
IDS = torch.arange(7)[None] + 3


@pytest.fixture(scope="module", params=ARCHITECTURES)
def found(request):
    model = tiny_model(request.param)
    return model, discover(model).groups


def logits(model):
    with torch.no_grad(), InDouble():
        return model(IDS, use_cache=False).logits


def every_other_unit(groups):
    return {group.name: range(0, group.num_units, 2) for group in groups}


@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_removing_a_group_equals_zeroing_it(found, kind):
    model, groups = found
    groups = [group for group in groups if group.kind == kind]
    kept = every_other_unit(groups)
    zeroed, removed = copy.deepcopy(model), copy.deepcopy(model)
    zero(zeroed, groups, kept)
    remove(removed, groups, kept)
    assert {group.layer for group in groups} == {0, 1}
    assert not torch.equal(logits(zeroed), logits(model))
    torch.testing.assert_close(logits(removed), logits(zeroed), rtol=1e-9, atol=1e-9)


def test_the_parameters_that_remain_are_those_predicted(found):
    model, groups = found
    groups = [group for group in groups if group.kind in ("mlp", "attention")]
    kept = every_other_unit(groups)
    removed = copy.deepcopy(model)
    remove(removed, groups, kept)
    remaining = sum(parameter.numel() for parameter in removed.parameters())
    assert remaining == count_parameters(shapes_of(model), groups, kept)


def test_a_pruned_model_is_discovered_and_pruned_again(found):
    model, groups = found
    once = copy.deepcopy(model)
    remove(once, groups, every_other_unit([group for group in groups if group.kind == "mlp"]))
    again = [group for group in discover(once).groups if group.kind == "mlp"]
    twice = copy.deepcopy(once)
    remove(twice, again, every_other_unit(again))
    zero(once, again, every_other_unit(again))
    torch.testing.assert_close(logits(twice), logits(once), rtol=1e-9, atol=1e-9)


def test_units_that_a_group_does_not_have_are_refused(found):
    model, groups = found
    with pytest.raises(ValueError, match="was made for another model"):
        remove(copy.deepcopy(model), groups, {groups[0].name: [groups[0].num_units]})
