"""Budgets in what a model costs to run."""

import copy
from dataclasses import replace

import pytest
import torch

from benchmarks.tiny_configs import tiny_model
from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.checkpoint import load_model, load_tokenizer
from pruner.discovery import discover
from pruner.evaluation.cost import measure_size, measure_speed
from pruner.pipeline import PruningSettings, prune
from pruner.pipeline.dense import Dense
from pruner.pipeline.measured import latency, settled, without
from pruner.pipeline.preview import preview
from pruner.pipeline.settings import searched
from pruner.progress import silent


def budgeted(**budget):
    return PruningSettings(
        Budget(round_to=1, **budget), "l1", protect_first=1, protect_last=0, compensation=None
    )


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2", "bloom"])
def test_the_pruned_model_needs_no_more_operations_than_asked_for(name):
    model = tiny_model(name, **({"n_positions": 256} if name == "gpt2" else {}))
    dense = measure_size(model).macs_per_token
    asked = budgeted(target_macs=int(0.8 * dense))
    plan = prune(model, None, asked)
    assert 0.75 * dense < measure_size(model).macs_per_token <= 0.8 * dense
    assert plan.budget["macs"] == measure_size(model).macs_per_token
    assert plan.budget["target_macs"] == asked.budget.target_macs


def test_a_preview_finds_the_same_widths(data):
    folder = data / "stories260K"
    model = load_model(folder)
    asked = budgeted(target_macs=int(0.8 * measure_size(model).macs_per_token))
    plan = prune(model, load_tokenizer(folder), asked)
    shown = preview(str(folder), asked)
    assert shown.budget["macs"] == plan.budget["macs"]
    assert {name: len(units) for name, units in shown.kept.items()} == {
        name: len(units) for name, units in plan.kept.items()
    }


@pytest.mark.parametrize("layers", [0, 1])
def test_the_ratio_is_the_smallest_that_comes_down_to_the_target(layers):
    """Latency, by a clock of its own: a second for each parameter."""
    model = tiny_model("llama", num_hidden_layers=6)
    whole = sum(weight.numel() for weight in model.parameters())
    dense = Dense.of(model, discover(model, kinds=searched(layers=layers > 0)))
    dense = Dense(dense.architecture, dense.shapes, dense.structure, dropped=tuple(range(1, 1 + layers)))

    def clock(smaller):
        return float(sum(weight.numel() for weight in smaller.parameters()))

    asked = budgeted(target_latency=0.7 * whole, layers=layers)
    found = settled(model, dense, asked, silent, measures={"target_latency": clock})
    assert found.budget.target_latency is None
    reached = clock(without(model, dense, dense.prunable(asked), found.budget))
    assert 0.68 * whole <= reached <= 0.7 * whole


def test_a_target_beyond_reach_is_refused_and_the_model_is_as_it_was():
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"budget\.target_macs 1 is beyond reach: the least is about"):
        prune(model, None, budgeted(target_macs=1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_latency_is_that_of_a_model_of_the_same_shapes():
    model = tiny_model("llama", max_position_embeddings=256)
    dense = Dense.of(model, discover(model))
    smaller = without(model, dense, dense.prunable(budgeted()), Budget(0.3, 1))
    assert latency(smaller) > 0
    assert measure_speed(smaller).decode_seconds > 0
    assert not any(value.is_meta for value in [*smaller.parameters(), *smaller.buffers()])


@pytest.mark.parametrize("round_to", [8, 16, 24])
def test_steps_that_no_ratio_would_meet_meet_a_target(round_to):
    model = tiny_model("llama")
    dense = measure_size(model).macs_per_token
    budget = Budget(round_to=round_to, target_macs=int(0.85 * dense))
    prune(model, None, replace(budgeted(), budget=budget, kinds=("mlp",), protect_first=0))
    assert measure_size(model).macs_per_token <= 0.85 * dense


def test_a_target_that_the_model_keeps_already_is_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match=r"is no less than the .* that the model needs as it is"):
        prune(model, None, budgeted(target_macs=2 * int(measure_size(model).macs_per_token)))


def test_a_target_beyond_reach_is_refused_before_any_layer_is_measured(data):
    model, tokenizer = load_model(data / "stories260K"), load_tokenizer(data / "stories260K")
    text = Calibration(str(data / "calibration" / "c4_200.jsonl"), num_samples=4, seq_len=32)
    begun = []

    def note(items, what, number):
        begun.append(what)
        return items

    asked = replace(budgeted(target_macs=1, layers=1), calibration=text)
    with pytest.raises(ValueError, match="beyond reach"):
        prune(model, tokenizer, asked, note)
    assert not begun


def test_what_is_measured_at_equal_shares_is_not_asked_of_unequal_ones():
    with pytest.raises(ValueError, match="granularity 'global' lets them differ: state a ratio"):
        replace(budgeted(target_macs=9), granularity="global")


def test_layers_and_a_measured_target_go_together(data):
    """The layers alone are more than the nothing that such a budget states as a share."""
    model, tokenizer = load_model(data / "stories260K"), load_tokenizer(data / "stories260K")
    text = Calibration(str(data / "calibration" / "c4_200.jsonl"), num_samples=4, seq_len=32)
    target = int(0.6 * measure_size(model).macs_per_token)
    prune(model, tokenizer, replace(budgeted(target_macs=target, layers=1), calibration=text))
    assert 0.5 * target < measure_size(model).macs_per_token <= target
