"""Any set of units, in any order, one by one or together, gives the same model: the one with them zeroed."""

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tiny_configs import InDouble, tiny_model
from pruner.discovery import discover
from pruner.surgery import remove, zero

KINDS = ("mlp", "attention")
IDS = torch.arange(7)[None] + 3
OPTIONS = {
    "llama": {},  # grouped-query attention
    "qwen3": {"tie_word_embeddings": True},  # a norm in every head
    "bloom": {},  # fused and interleaved projection, ALiBi, tied
    "phi3": {},  # fused projections, one part after the other
    "gpt2": {},  # transposed weights, tied
    "gpt_neox": {},  # residual stream with parallel attention
    "mixtral": {},  # experts
    "olmo2": {},  # a norm across heads
}
NORMS_ACROSS_HEADS = ("olmo2",)


@cache
def dense(name):
    model = tiny_model(name, **OPTIONS[name])
    return model, tuple(group for group in discover(model).groups if group.kind in KINDS)


def logits(model):
    with torch.no_grad(), InDouble():
        return model(IDS, use_cache=False).logits


@st.composite
def orders(draw, groups):
    """A few units, at least one of each group staying, in batches."""
    gone = []
    for group in draw(st.lists(st.sampled_from(groups), min_size=1, max_size=4, unique=True)):
        count = draw(st.integers(1, min(4, group.num_units - 1)))
        units = st.integers(0, group.num_units - 1)
        gone += [
            (group.name, unit) for unit in draw(st.lists(units, min_size=count, max_size=count, unique=True))
        ]
    shuffled = draw(st.permutations(gone))
    cuts = sorted(draw(st.sets(st.integers(1, len(gone)), max_size=2)))
    return [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(gone)]) if b > a]


def kept_without(groups, gone):
    """Of the groups concerned, all units but these."""
    lost = {name: {unit for other, unit in gone if other == name} for name, _ in gone}
    return {
        g.name: [u for u in range(g.num_units) if u not in lost[g.name]] for g in groups if g.name in lost
    }


def one_after_the_other(model, groups, batches):
    """Discover again before every batch, in which units have moved up."""
    staying = {group.name: list(range(group.num_units)) for group in groups}
    for batch in batches:
        now = [(name, staying[name].index(unit)) for name, unit in batch]
        found = [group for group in discover(model).groups if group.name in staying]
        remove(model, found, kept_without(found, now))
        for name, unit in batch:
            staying[name].remove(unit)


def assert_same_parameters(model, other, exactly):
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-12, "atol": 1e-12}
    mine, others = dict(model.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == others.keys()
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter, others[name], **tolerance)


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_order_gives_the_model_with_these_units_zeroed(name, data):
    model, groups = dense(name)
    batches = data.draw(orders(groups))
    everything = [entry for batch in batches for entry in batch]
    kept = kept_without(groups, everything)
    together, in_turn, zeroed = (copy.deepcopy(model) for _ in range(3))
    remove(together, groups, kept)
    one_after_the_other(in_turn, groups, batches)
    zero(zeroed, groups, kept)
    assert_same_parameters(together, in_turn, exactly=name not in NORMS_ACROSS_HEADS)
    torch.testing.assert_close(logits(together), logits(zeroed), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits(in_turn), logits(zeroed), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPTIONS)
def test_groups_are_independent_of_the_order_in_which_they_are_cut(name):
    model, groups = dense(name)
    kept = {group.name: range(1, group.num_units) for group in groups}
    together, backwards = copy.deepcopy(model), copy.deepcopy(model)
    remove(together, groups, kept)
    for group in reversed(groups):
        remove(backwards, [group], {group.name: kept[group.name]})
    assert_same_parameters(together, backwards, exactly=name not in NORMS_ACROSS_HEADS)


@pytest.mark.parametrize("name", ["qwen3", "bloom", "gpt2"])
def test_tied_weights_stay_tied(name):
    model, groups = copy.deepcopy(dense(name))
    remove(model, groups, {group.name: range(1, group.num_units) for group in groups})
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
