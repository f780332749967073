"""The residual stream's channels, cut through all layers."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.tiny_configs import InDouble, tiny_model
from pruner.checkpoint import load_model, save_model
from pruner.discovery import discover
from pruner.groups import count_parameters, shapes_of
from pruner.surgery import remove, zero

IDS = torch.arange(7)[None] + 3
LAYERS = {"num_hidden_layers": 5}
UNDER_RMS_NORMS = {
    "llama": LAYERS,
    "qwen3": {},
    "olmo2": LAYERS,
    "phi3": LAYERS,
    "mixtral": LAYERS,
    "gemma3_text": {},
}
UNDER_LAYER_NORMS = {"gpt2": {"n_layer": 5}, "bloom": {"n_layer": 5}, "falcon": {}, "gpt_neox": {}}


def hidden(model):
    (group,) = [group for group in discover(model, kinds=["hidden"]).groups if group.kind == "hidden"]
    return group


def logits(model):
    with torch.no_grad(), InDouble():
        return model(IDS, use_cache=False).logits


def survivors(group, seed):
    order = torch.randperm(group.num_units, generator=torch.Generator().manual_seed(seed))
    return {group.name: sorted(order[: group.num_units * 2 // 3].tolist())}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", UNDER_RMS_NORMS)
def test_removing_equals_zeroing_under_rms_norms(name, seed):
    model = tiny_model(name, **UNDER_RMS_NORMS[name]).double()
    group = hidden(model)
    kept = survivors(group, seed)
    zeroed, removed = copy.deepcopy(model), copy.deepcopy(model)
    zero(zeroed, [group], kept)
    remove(removed, [group], kept)
    assert not torch.allclose(logits(zeroed), logits(model), rtol=1e-3)
    torch.testing.assert_close(logits(removed), logits(zeroed), rtol=1e-9, atol=1e-9)
    remaining = sum(parameter.numel() for parameter in removed.parameters())
    assert remaining == count_parameters(shapes_of(model), [group], kept)


class OverSurvivors(nn.Module):
    """A layer norm that sees these channels alone, as that of a narrower model does."""

    def __init__(self, norm, kept):
        super().__init__()
        self.norm, self.kept = norm, torch.tensor(kept)

    def forward(self, x):
        narrow = [None if p is None else p[self.kept] for p in (self.norm.weight, self.norm.bias)]
        y = nn.functional.layer_norm(x[..., self.kept], (len(self.kept),), *narrow, self.norm.eps)
        return torch.zeros_like(x).index_copy(-1, self.kept, y)


@pytest.mark.parametrize("name", UNDER_LAYER_NORMS)
def test_removing_equals_the_narrower_model_under_layer_norms(name):
    model = tiny_model(name, **UNDER_LAYER_NORMS[name]).double()
    group = hidden(model)
    kept = survivors(group, 0)
    narrower, removed = copy.deepcopy(model), copy.deepcopy(model)
    zero(narrower, [group], kept)
    for path, module in list(narrower.named_modules()):
        if isinstance(module, nn.LayerNorm):
            narrower.set_submodule(path, OverSurvivors(module, kept[group.name]))
    remove(removed, [group], kept)
    torch.testing.assert_close(logits(removed), logits(narrower), rtol=1e-9, atol=1e-9)
    widths = {
        tuple(module.normalized_shape) for module in removed.modules() if isinstance(module, nn.LayerNorm)
    }
    assert widths == {(len(kept[group.name]),)}


def test_channels_and_what_lies_within_layers_go_together():
    model = tiny_model("llama", **LAYERS).double()
    groups = [
        group
        for group in discover(model, kinds=["mlp", "attention", "hidden"]).groups
        if group.kind in ("mlp", "attention", "hidden")
    ]
    kept = {group.name: range(0, group.num_units, 2) for group in groups}
    zeroed, removed = copy.deepcopy(model), copy.deepcopy(model)
    zero(zeroed, groups, kept)
    remove(removed, groups, kept)
    torch.testing.assert_close(logits(removed), logits(zeroed), rtol=1e-9, atol=1e-9)


def test_tied_embeddings_stay_tied():
    model = tiny_model("llama", tie_word_embeddings=True)
    group = hidden(model)
    remove(model, [group], survivors(group, 0))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.shape == (96, 32)


def test_only_who_asks_for_them_gets_them():
    model = tiny_model("llama", "meta")
    assert {group.kind for group in discover(model).groups} == {"mlp", "attention", "query"}
    assert {group.kind for group in discover(model, kinds=["hidden", "mlp"]).groups} == {"hidden", "mlp"}


def test_channels_of_an_architecture_that_also_averages_by_hand_are_refused():
    structure = discover(tiny_model("cohere", "meta"), kinds=["hidden"])
    (refusal,) = structure.refused
    assert not structure.groups
    assert "counts the zeros that would go" in refusal.reason


def test_a_narrower_llama_is_saved_as_stock_and_loaded(tmp_path):
    model = tiny_model("llama", **LAYERS, dtype=torch.float32)
    group = hidden(model)
    remove(model, [group], survivors(group, 0))
    save_model(model, None, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    loaded.set_attn_implementation("eager")
    assert type(loaded).__module__.startswith("transformers.")
    assert loaded.config.hidden_size == 32
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
