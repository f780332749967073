"""A bias in the place of what went: FLAP's compensation, and a refit that has one too."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from pruner.budget import Budget
from pruner.calibration import Calibration, load_calibration
from pruner.checkpoint import load_model, save_model
from pruner.compensation import Compensation
from pruner.pipeline import PruningSettings, prune

ALONE = Compensation(weights=False, bias=True, drift=0.0, epochs=0)
IDS = torch.arange(40).view(4, 10) + 3


@pytest.fixture
def text(data):
    return Calibration(str(data / "calibration" / "c4_200.jsonl"), num_samples=8, seq_len=32)


def settings(text, compensation, **changes):
    values = {"criterion": "flap", "kinds": ("mlp",), "protect_first": 1, "protect_last": 3}
    return PruningSettings(
        Budget(0.05, 1), calibration=text, compensation=compensation, **{**values, **changes}
    )


def read_by(model, module, input_ids):
    """The tokens that a linear module reads, (tokens, in)."""
    seen = []
    with (
        torch.no_grad(),
        model.get_submodule(module).register_forward_pre_hook(lambda _, args: seen.append(args)),
    ):
        model(input_ids, use_cache=False)
    return seen[0][0].flatten(0, 1)


def test_a_bias_alone_is_what_the_inputs_that_went_gave_on_average(stories, text):
    """In the first layer that loses any: FLAP's baseline (An et al. 2024, section 3.3)."""
    dense, tokenizer = stories
    pruned = copy.deepcopy(dense)
    plan = prune(pruned, tokenizer, settings(text, ALONE))
    name = "model.layers.1.mlp.down_proj"
    kept = list(plan.kept["model.layers.1.mlp"])
    gone = [unit for unit in range(len(dense.get_submodule(name).weight.T)) if unit not in kept]
    weight = dense.get_submodule(name).weight
    mean = read_by(dense, name, load_calibration(text, tokenizer).input_ids).mean(0)
    module = pruned.get_submodule(name)
    assert gone
    assert torch.equal(module.weight, weight[:, kept])
    torch.testing.assert_close(module.bias, weight[:, gone] @ mean[gone], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("protected", [0, 1], ids=["equal layers", "layers that differ"])
def test_a_model_with_biases_comes_back_as_it_was_and_its_plan_counts_them(
    stories, text, tmp_path, protected
):
    model, tokenizer = stories
    both = {"kinds": ("mlp", "attention"), "protect_first": protected, "protect_last": protected}
    budget = Budget(widths={"mlp": 100, "attention": 3})
    plan = prune(model, tokenizer, replace(settings(text, ALONE), budget=budget, **both))
    assert plan.budget["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    save_model(model, tokenizer, tmp_path / "pruned")
    loaded = load_model(tmp_path / "pruned")
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    biases = {name for name, value in loaded.named_parameters() if name.endswith(".bias") and value.any()}
    assert {name.split(".")[-2] for name in biases} == {"down_proj", "o_proj"}
    assert len(biases) == 2 * (5 - 2 * protected)


def test_a_replay_with_the_text_gives_the_same_biases(stories, text, tmp_path):
    model, tokenizer = stories
    again = copy.deepcopy(model)
    prune(model, tokenizer, settings(text, Compensation(bias=True))).save(tmp_path / "plan.json")
    prune(
        again,
        tokenizer,
        PruningSettings(plan=str(tmp_path / "plan.json"), calibration=Calibration(text.path)),
    )
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_settings_that_leave_nothing_to_refit_are_refused():
    with pytest.raises(ValueError, match="without weights and bias does nothing"):
        Compensation(weights=False)
    with pytest.raises(ValueError, match="after a refit of the weights"):
        PruningSettings(compensation=Compensation(weights=False, bias=True))


def test_a_model_without_a_place_for_biases_is_refused_before_the_text_is_read():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "vocab_size": 64}
    model = MistralForCausalLM(MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    with pytest.raises(ValueError, match="MistralForCausalLM has no place for a bias"):
        prune(model, None, settings(Calibration("nowhere.jsonl"), ALONE, protect_last=1))
