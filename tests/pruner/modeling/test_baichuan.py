"""Baichuan-7B's packed weights are read as the Llama that computes the same."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from pruner.checkpoint import load_config, load_model, save_model
from pruner.discovery import discover
from pruner.surgery import remove

SIZES = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
IDS = torch.arange(3, 20)[None]


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.3)).eval()


@pytest.fixture
def folder(llama, tmp_path):
    """The same weights laid out as Baichuan's: packed, a rotary buffer saved, two files, code beside them."""
    weights = {name: weight.clone() for name, weight in llama.state_dict().items()}
    for layer in range(SIZES["num_hidden_layers"]):
        attention = f"model.layers.{layer}.self_attn"
        parts = [weights.pop(f"{attention}.{part}_proj.weight") for part in "qkv"]
        weights[f"{attention}.W_pack.weight"] = torch.cat(parts)
        weights[f"{attention}.rotary_emb.inv_freq"] = torch.ones(3)
    names = sorted(weights)
    folder = tmp_path / "baichuan"
    folder.mkdir()
    for number in range(2):
        part = {name: weights[name] for name in names[number::2]}
        save_file(part, folder / f"model-0000{number + 1}-of-00002.safetensors", {"format": "pt"})
    values = {
        "architectures": ["BaiChuanForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_baichuan.BaiChuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM",
        },
        "model_type": "baichuan",
        "torch_dtype": "float32",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **SIZES,
    }
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "modeling_baichuan.py").write_text("raise SystemExit('this code must not run')\n")
    (folder / "configuration_baichuan.py").write_text("raise SystemExit('this code must not run')\n")
    return folder


def assert_same_logits(model, other):
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, other(IDS).logits)


def test_the_packed_model_is_the_llama_it_was_packed_from(llama, folder):
    model = load_model(folder)
    assert type(model) is LlamaForCausalLM
    assert_same_logits(model, llama)


def test_its_configuration_is_read_without_running_its_code(folder):
    config = load_config(folder)
    assert isinstance(config, LlamaConfig)
    assert (config.num_attention_heads, config.rms_norm_eps, config.eos_token_id) == (4, 1e-5, 2)


def test_its_weights_take_the_dtype_that_is_asked_for(folder):
    assert load_model(folder).dtype == torch.float32
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_it_is_pruned_and_saved_as_a_llama(folder, tmp_path):
    model = load_model(folder)
    groups = [group for group in discover(model).groups if group.kind in ("mlp", "attention")]
    remove(model, groups, {group.name: range(group.num_units // 2) for group in groups})
    save_model(model, None, tmp_path / "pruned")
    config = json.loads((tmp_path / "pruned/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_attention_heads"], config["intermediate_size"]) == (2, 20)
    assert_same_logits(load_model(tmp_path / "pruned"), model)


def test_a_missing_file_is_named(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks .*copy all of its safetensors files"):
        load_model(folder)


def test_the_13_billion_model_is_not_taken_for_it(folder):
    values = json.loads((folder / "config.json").read_text())
    values["architectures"] = ["BaichuanForCausalLM"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(folder)
