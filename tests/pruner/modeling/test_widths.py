import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from pruner.modeling.compaction import compact, ranges
from pruner.modeling.remote.modeling_pruned import spelled_out
from pruner.modeling.widths import build, dense_config, differences, structure

LAYERS = st.dictionaries(st.integers(0, 130), st.sampled_from([3, 5, 7]), min_size=1)


@given(LAYERS)
def test_what_is_told_once_for_several_layers_is_read_back_for_each(layers):
    told = {f"model.layers.{layer}.mlp": {"width": width} for layer, width in layers.items()}
    told["lm_head"] = {"width": 2}
    read = {name: facts for pattern, facts in compact(told).items() for name in spelled_out(pattern)}
    assert read == told


def test_runs_of_layers_are_written_as_ranges():
    assert ranges([4, 2, 3, 7]) == "2-4,7"


def test_layers_alike_are_told_once():
    told = {f"layers.{layer}.mlp": {"width": 8} for layer in range(4, 26)}
    assert compact(told) == {"layers.4-25.mlp": {"width": 8}}


def test_a_dense_model_differs_in_nothing():
    config = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=4, num_hidden_layers=2, vocab_size=9
    )
    model = build(transformers.LlamaForCausalLM, config)
    dense = structure(build(transformers.LlamaForCausalLM, dense_config(config)))
    assert differences(structure(model, shared=model.config), dense) == {}


def test_a_norm_with_its_own_epsilon_is_told():
    config = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=4, num_hidden_layers=2, vocab_size=9
    )
    model = build(transformers.LlamaForCausalLM, config)
    dense = structure(model)
    model.model.norm.variance_epsilon = 0.5
    assert differences(structure(model), dense) == {"model.norm": {"variance_epsilon": 0.5}}


def test_a_module_that_the_architecture_lacks_is_refused():
    config = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=4, num_hidden_layers=2, vocab_size=9
    )
    model = build(transformers.LlamaForCausalLM, config)
    dense = structure(model)
    del model.model.layers[1]
    with pytest.raises(ValueError, match=r"model\.layers\.1"):
        differences(structure(model), dense)
