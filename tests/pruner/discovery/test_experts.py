"""Experts of a mixture as units."""

import copy

import pytest
import torch
from torch.overrides import TorchFunctionMode

from benchmarks.tiny_configs import InDouble, tiny_model
from pruner.discovery import discover
from pruner.groups import count_parameters, shapes_of
from pruner.surgery import remove

IDS = torch.arange(7)[None] + 3
MIXTURES = ["mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "gpt_oss", "granitemoe", "jamba", "deepseek_v2"]
GONE = [(1,), (0, 2)]


def experts(model):
    return [group for group in discover(model).groups if group.kind == "expert"]


def without(groups, gone):
    return {group.name: [unit for unit in range(group.num_units) if unit not in gone] for group in groups}


class NeverChosen(TorchFunctionMode):
    """Routers give minus infinity to some experts."""

    def __init__(self, model, groups, gone):
        super().__init__()
        names = {piece.name for group in groups for piece in group.slices}
        self.routers = [p for name, p in model.named_parameters() if name in names and p.dim() == 2]
        self.routers = [p for p in self.routers if p.shape[1] == model.config.hidden_size]
        self.gone = list(gone)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.nn.functional.linear and any(self.is_router(args[1], p) for p in self.routers):
            result = result.index_fill(-1, torch.tensor(self.gone), -torch.inf)
        return result

    def is_router(self, weight, router):
        return weight.shape == router.shape and torch.equal(weight.to(router.dtype), router)


def logits(model):
    with torch.no_grad(), InDouble():
        return model(IDS, use_cache=False).logits


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("name", MIXTURES)
def test_a_removed_expert_is_one_that_is_never_chosen(name, gone):
    model = tiny_model(name).double()
    groups = experts(model)
    assert groups
    kept = without(groups, gone)
    removed = copy.deepcopy(model)
    remove(removed, groups, kept)
    with NeverChosen(model, groups, gone):
        expected = logits(model)
    assert not torch.allclose(expected, logits(model), rtol=1e-6)
    torch.testing.assert_close(logits(removed), expected, rtol=1e-9, atol=1e-9)
    remaining = sum(parameter.numel() for parameter in removed.parameters())
    assert remaining == count_parameters(shapes_of(model), groups, kept)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_are_fewer_in_whichever_way_they_are_computed(name, implementation):
    model = tiny_model(name, dtype=torch.float32)
    groups = experts(model)
    remove(model, groups, without(groups, [1]))
    expected = model(IDS).logits
    model.set_experts_implementation(implementation)
    torch.testing.assert_close(model(IDS).logits, expected)


def test_as_many_stay_as_the_router_chooses():
    model = tiny_model("mixtral")
    groups = experts(model)
    assert {group.fewest for group in groups} == {model.config.num_experts_per_tok}
    with pytest.raises(ValueError, match="at least 2 units must stay"):
        remove(model, groups, {groups[0].name: [3]})


def test_a_router_whose_experts_are_not_seen_to_go_with_it_is_refused():
    structure = discover(tiny_model("phimoe", "meta"))
    assert all(group.kind != "expert" for group in structure.groups)
    assert any("not seen to go with it" in refusal.reason for refusal in structure.refused)
