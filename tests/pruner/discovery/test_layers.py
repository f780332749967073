"""Whole layers, taken out of a model."""

import copy

import pytest
import torch

from benchmarks.tiny_configs import tiny_model
from pruner.checkpoint import load_model, save_model
from pruner.discovery import discover
from pruner.groups import count_parameters, shapes_of
from pruner.surgery import remove, zero

IDS = torch.arange(7)[None] + 3
NUM_LAYERS = 6
KINDS = ["sliding_attention", "full_attention", "full_attention"] * 2
ONE_AFTER_THE_OTHER = {
    "llama": {"num_hidden_layers": NUM_LAYERS},
    "gpt2": {"n_layer": NUM_LAYERS},
    "bloom": {"n_layer": NUM_LAYERS},
    "mixtral": {"num_hidden_layers": NUM_LAYERS},
    "gemma3_text": {"num_hidden_layers": NUM_LAYERS, "layer_types": KINDS},
    "olmo2": {"num_hidden_layers": NUM_LAYERS},
    "deepseek_v3": {"num_hidden_layers": NUM_LAYERS, "first_k_dense_replace": 1},
}
KEPT = {"layers": [0, 2, 5]}


def layers(model):
    (group,) = [group for group in discover(model, kinds=["layer"]).groups if group.kind == "layer"]
    return group


def skip(model, group, kept):
    """Let layers return the hidden states that they are called with."""
    for unit, name in enumerate(group.modules):
        if unit not in kept[group.name]:

            def forward(hidden_states, *args, **kwargs):
                return (hidden_states, None) if model.config.model_type == "bloom" else hidden_states

            model.get_submodule(name).forward = forward


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


@pytest.mark.parametrize("name", ONE_AFTER_THE_OTHER)
def test_a_removed_layer_is_an_identity_on_the_residual_stream(name):
    model = tiny_model(name, **ONE_AFTER_THE_OTHER[name])
    group = layers(model)
    skipped, removed = copy.deepcopy(model), copy.deepcopy(model)
    skip(skipped, group, KEPT)
    remove(removed, [group], KEPT)
    assert not torch.allclose(logits(removed), logits(model), rtol=1e-3)
    assert torch.equal(logits(removed), logits(skipped))
    remaining = sum(parameter.numel() for parameter in removed.parameters())
    assert remaining == count_parameters(shapes_of(model), [group], KEPT)
    assert len(discover(removed).layers) == len(KEPT["layers"]) == removed.config.num_hidden_layers


@pytest.mark.parametrize("name", ONE_AFTER_THE_OTHER)
def test_the_cache_knows_the_layers_that_stay(name):
    model = tiny_model(name, **ONE_AFTER_THE_OTHER[name])
    remove(model, [layers(model)], KEPT)
    tokens = [
        model.generate(IDS, max_new_tokens=8, do_sample=False, use_cache=cache) for cache in (True, False)
    ]
    assert torch.equal(*tokens)


def test_layer_types_go_with_their_layers():
    model = tiny_model("gemma3_text", **ONE_AFTER_THE_OTHER["gemma3_text"])
    before = model.config
    remove(model, [layers(model)], KEPT)
    assert model.config.layer_types == [KINDS[number] for number in KEPT["layers"]]
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2]
    assert model.model.config is model.config is not before
    assert before.num_hidden_layers == NUM_LAYERS


def test_what_lies_within_the_layers_that_stay_goes_too():
    model = tiny_model("llama", num_hidden_layers=NUM_LAYERS)
    found = discover(model, kinds=["mlp", "layer"]).groups
    groups = [group for group in found if group.kind in ("mlp", "layer")]
    kept = {group.name: range(0, group.num_units, 2) for group in groups}
    at_once, after = copy.deepcopy(model), copy.deepcopy(model)
    remove(at_once, groups, kept)
    remove(after, [group for group in groups if group.kind == "mlp"], kept)
    remove(after, [group for group in groups if group.kind == "layer"], kept)
    assert torch.equal(logits(at_once), logits(after))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
def test_a_shorter_model_is_saved_as_stock_and_loaded(name, tmp_path):
    model = tiny_model(name, dtype=torch.float32, **ONE_AFTER_THE_OTHER[name])
    remove(model, [layers(model)], KEPT)
    save_model(model, None, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    loaded.set_attn_implementation("eager")
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config.num_hidden_layers == len(KEPT["layers"])


def test_layers_that_share_more_than_the_stream_stay():
    of_each = {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": [80] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
    }
    model = tiny_model("gemma3n_text", "meta", **of_each)
    structure = discover(model, kinds=["layer"])
    assert all(group.kind != "layer" for group in structure.groups)
    (refusal,) = [refusal for refusal in structure.refused if refusal.name == "layers"]
    assert "beside the residual stream" in refusal.reason


def test_some_layer_stays_and_none_is_zeroed():
    model = tiny_model("llama")
    group = layers(model)
    with pytest.raises(ValueError, match="no decoder layer would stay"):
        remove(model, [group], {"layers": []})
    with pytest.raises(ValueError, match="cannot be zeroed"):
        zero(model, [group], {"layers": [0]})
