import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pruner.export.to_gguf.layout import layout_of
from pruner.export.to_gguf.verification import verify_gguf
from pruner.export.to_gguf.writing import round_weights, write_gguf
from tests.pruner.export.to_gguf.conftest import model_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_computes_what_the_model_computes(model, sentencepiece, tmp_path, dtype):
    round_weights(model, dtype)
    write_gguf(model, sentencepiece, tmp_path / "out.gguf", dtype)
    verify_gguf(model, tmp_path / "out.gguf")


def without_llamas_rule(model):
    """A configuration with any number of heads; Llama's demands at first that it divides the width."""
    layout = layout_of(model)
    known = ("hidden_size", "num_hidden_layers", "vocab_size", "rms_norm_eps", "tie_word_embeddings")
    config = LlamaConfig(
        **{name: getattr(model.config, name) for name in known},
        intermediate_size=layout.channels[0],
        head_dim=model.config.head_dim,
    )
    config.num_attention_heads, config.num_key_value_heads = layout.heads[0], layout.kv_heads[0]
    return config


@torch.no_grad()
def test_transformers_reads_the_same_model_back_where_it_knows_the_shape(model, sentencepiece, tmp_path):
    biased = any(name.endswith("_proj.bias") for name, _ in model.named_parameters())
    if biased or layout_of(model).arch != "llama":
        pytest.skip("transformers reads neither deci nor biases of llama")
    write_gguf(model, sentencepiece, tmp_path / "out.gguf", torch.float32)
    file = {"gguf_file": "out.gguf", "dtype": torch.float32}
    read = LlamaForCausalLM.from_pretrained(tmp_path, config=without_llamas_rule(model), **file).eval()
    ids = torch.arange(40)[None]
    torch.testing.assert_close(read(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_layers_that_differ_are_named_deci_and_equal_ones_llama(model):
    layout = layout_of(model)
    equal = len({*zip(layout.heads, layout.kv_heads, layout.channels)}) == 1
    assert (layout.arch == "deci") != equal


def test_a_weight_too_large_for_float16_is_refused_with_the_format_that_holds_it():
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, 1e6)
    with pytest.raises(ValueError, match="export as gguf, in float32"):
        round_weights(model, torch.float16)


def test_verification_notices_a_changed_weight(sentencepiece, tmp_path):
    model = model_of("llama, layers that differ")
    write_gguf(model, sentencepiece, tmp_path / "out.gguf", torch.float32)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0] += 1
    with pytest.raises(ValueError, match="holds another model"):
        verify_gguf(model, tmp_path / "out.gguf")
