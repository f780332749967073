import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from pruner.evaluation.cost import measure_size, measure_speed

LAYERS, HIDDEN, MLP, HEADS, GROUPS, HEAD, VOCABULARY, TOKENS = 3, 32, 40, 4, 2, 8, 50, 16


def build(**changes):
    torch.manual_seed(0)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "max_position_embeddings": 64,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


PROJECTIONS = HIDDEN * HEAD * (2 * HEADS + 2 * GROUPS) + 3 * HIDDEN * MLP


def test_parameters_are_counted_once_where_tied_and_the_decoder_by_itself():
    decoder = LAYERS * (PROJECTIONS + 2 * HIDDEN)
    untied, tied = measure_size(build()), measure_size(build(tie_word_embeddings=True))
    assert untied.decoder_parameters == tied.decoder_parameters == decoder
    assert untied.parameters == decoder + HIDDEN + 2 * VOCABULARY * HIDDEN
    assert tied.parameters == decoder + HIDDEN + VOCABULARY * HIDDEN


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_macs_are_every_weight_once_per_token_and_every_pair_of_tokens_twice(attention):
    model = build(attn_implementation=attention)
    expected = LAYERS * (PROJECTIONS + 2 * HEADS * HEAD * TOKENS) + HIDDEN * VOCABULARY
    assert measure_size(model, seq_len=TOKENS).macs_per_token == pytest.approx(expected, rel=0.005)


def test_macs_of_a_mixture_are_those_of_the_experts_that_a_token_meets():
    def macs(per_token):
        config = MixtralConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=per_token,
        )
        torch.manual_seed(0)
        return measure_size(MixtralForCausalLM(config).eval(), seq_len=TOKENS).macs_per_token

    assert macs(2) - macs(1) == 2 * 3 * 32 * 64


def test_the_cache_keeps_a_key_and_a_value_of_every_group_for_each_token():
    assert measure_size(build()).cache_bytes_per_token == LAYERS * 2 * GROUPS * HEAD * 4
    half = build().to(torch.bfloat16)
    assert measure_size(half).cache_bytes_per_token == LAYERS * 2 * GROUPS * HEAD * 2


def test_weights_in_half_precision_take_half_the_memory():
    model = build()
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    full = measure_size(model).weight_bytes
    assert full == 4 * measure_size(model).parameters + buffers


def test_speed_says_what_was_timed():
    speed = measure_speed(build(), batch_size=2, prompt_tokens=8, new_tokens=4, repeats=2)
    assert (speed.device, speed.batch_size, speed.prompt_tokens, speed.new_tokens) == ("cpu", 2, 8, 4)
    assert speed.prefill_seconds > 0
    assert speed.decode_seconds > 0
    assert speed.peak_bytes is None


def test_a_layer_more_takes_more_time():
    small, large = (
        build(num_hidden_layers=layers, hidden_size=256, max_position_embeddings=256) for layers in (2, 12)
    )
    assert measure_speed(small).decode_seconds < measure_speed(large).decode_seconds


def test_a_prompt_that_the_context_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="do not fit the model's context of 64"):
        measure_speed(build(), prompt_tokens=60, new_tokens=5)
