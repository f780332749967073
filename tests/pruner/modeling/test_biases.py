import copy

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from pruner.modeling.biases import bias_switches, complete_biases

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
O_PROJ, DOWN_PROJ = "model.layers.1.self_attn.o_proj", "model.layers.0.mlp.down_proj"


def model_of(architecture):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**SMALL, **HEADS)).eval()


@pytest.mark.parametrize(
    ("modules", "switches"),
    [([O_PROJ], ("attention_bias",)), ([DOWN_PROJ], ("mlp_bias",)), ([], ())],
)
def test_the_entries_that_give_a_module_a_bias_are_found(modules, switches):
    assert bias_switches(model_of("llama"), modules) == switches


def test_both_are_found_and_what_has_a_bias_needs_none():
    model = model_of("llama")
    assert set(bias_switches(model, [O_PROJ, DOWN_PROJ])) == {"attention_bias", "mlp_bias"}
    complete_biases(model, ["mlp_bias"])
    assert bias_switches(model, [DOWN_PROJ]) == ()


@pytest.mark.parametrize("architecture", ["mistral", "qwen3"])
def test_an_architecture_without_a_place_is_refused_before_anything_changes(architecture):
    model = model_of(architecture)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"no place for a bias in .*down_proj .*compensation.bias to false"):
        bias_switches(model, [O_PROJ, DOWN_PROJ])
    assert model.state_dict().keys() == before.keys()


@torch.no_grad()
def test_completed_a_model_computes_what_it_did_and_is_what_its_configuration_says():
    model, tokens = model_of("llama"), torch.arange(20)[None]
    expected = model(tokens).logits
    model.model.layers[0].mlp.down_proj.bias = torch.nn.Parameter(torch.zeros(32))
    complete_biases(model, ["attention_bias", "mlp_bias"])
    assert torch.equal(model(tokens).logits, expected)
    again = AutoModelForCausalLM.from_config(model.config)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
