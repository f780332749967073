"""What discovery cannot follow it leaves alone and names; it never guesses."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from benchmarks.tiny_configs import tiny_model
from pruner.discovery import discover
from pruner.surgery import remove, zero

BERT = BertConfig(
    hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=32
)
IDS = torch.arange(7)[None] + 3


class Spectrum(nn.Module):
    """Gives a tensor of its input's shape, each element of which depends on the whole row."""

    def forward(self, x):
        return torch.fft.fft(x, dim=-1).real


class DependsOnData(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class ChoosesByData(nn.Module):
    def forward(self, x):
        return x.flatten()[x.flatten() > 0]


class Codes(nn.Module):
    """A linear map whose weights are integers times a scale, as quantisation leaves them."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to(torch.int8))
        self.scale = nn.Parameter(torch.ones(len(linear.weight), 1, dtype=linear.weight.dtype))

    def forward(self, x):
        return x @ (self.weight * self.scale).T


@pytest.fixture
def model():
    return tiny_model("llama")


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_an_operator_without_a_rule_is_named_with_its_line_and_the_rest_is_pruned(model):
    model.model.layers[1].mlp.act_fn = Spectrum()
    structure = discover(model)
    found = {(group.layer, group.kind) for group in structure.groups}
    assert found >= {(0, "mlp"), (0, "attention"), (1, "attention")}
    assert (1, "mlp") not in found
    (refusal,) = (refusal for refusal in structure.refused if refusal.name == "model.layers.1.mlp")
    line = Spectrum.forward.__code__.co_firstlineno + 1
    assert f"fft_r2c at test_refusals.py:{line} is an operator without a rule" in refusal.reason


def test_what_is_left_beside_a_refusal_is_pruned_rightly(model):
    model.model.layers[1].mlp.act_fn = Spectrum()
    groups = [group for group in discover(model).groups if group.kind in ("mlp", "attention")]
    kept = {group.name: range(1, group.num_units) for group in groups}
    zeroed = copy.deepcopy(model)
    zero(zeroed, groups, kept)
    remove(model, groups, kept)
    torch.testing.assert_close(logits(model), logits(zeroed), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("module", [DependsOnData, ChoosesByData])
def test_control_flow_that_depends_on_data_is_refused_with_its_line(model, module):
    model.model.layers[0].mlp.act_fn = module()
    line = module.forward.__code__.co_firstlineno + 1
    with pytest.raises(ValueError, match=rf"test_refusals\.py:{line} asks for the value of a tensor"):
        discover(model)


@pytest.mark.parametrize(
    "headless, returned",
    [
        (lambda: tiny_model("llama").model, "BaseModelOutputWithPast"),
        (lambda: BertModel(BERT), "BaseModelOutput"),
        (lambda: BertForSequenceClassification(BERT), r"a tensor of \(1, 2\)"),
    ],
)
def test_a_model_without_a_language_model_head_is_refused(headless, returned):
    with pytest.raises(ValueError, match=rf"has no causal language-model head: .* got {returned}"):
        discover(headless())


def test_what_does_not_run_on_tokens_is_refused():
    with pytest.raises(ValueError, match=r"Linear does not run on input_ids.*give `discover` the inputs"):
        discover(nn.Linear(3, 3))


def test_a_model_that_builds_modules_anew_when_it_first_runs_is_refused():
    model = tiny_model("big_bird", attention_type="block_sparse")
    with pytest.raises(ValueError, match="becomes a BigBirdSelfAttention when the model first runs"):
        discover(model)


def test_integer_weights_are_refused_by_name(model):
    model.model.layers[0].mlp.up_proj = Codes(model.model.layers[0].mlp.up_proj)
    with pytest.raises(ValueError, match=r"up_proj\.weight' is of dtype torch.int8: quantised"):
        discover(model)


def test_weights_of_eight_bits_are_refused_by_name(model):
    weight = model.lm_head.weight
    model.lm_head.weight = nn.Parameter(weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match=r"lm_head\.weight' is of dtype torch.float8_e4m3fn: quantised"):
        discover(model)


def test_a_configuration_that_says_quantised_is_refused(model):
    model.config.quantization_config = {"quant_method": "awq", "bits": 4}
    with pytest.raises(ValueError, match="has a quantization_config: quantised weights cannot be sliced"):
        discover(model)


def test_modules_that_pack_their_weights_are_refused(model):
    model.model.layers[1].mlp.down_proj = torch.ao.nn.quantized.dynamic.Linear(80, 48)
    with pytest.raises(ValueError, match=r"module 'model\.layers\.1\.mlp\.down_proj' is a quantised Linear"):
        discover(model)
