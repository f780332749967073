"""Which format can hold which pruned model; a refusal says why, and names a format that can."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pruner.checkpoint import load_model, save_model
from pruner.discovery import discover
from pruner.export import export_model
from pruner.surgery import remove

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 520}
GROUPED = {**SIZES, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 64}
BLOOM = BloomConfig(vocab_size=520, hidden_size=32, n_layer=3, n_head=4)
GPT2 = GPT2Config(vocab_size=520, n_embd=32, n_layer=3, n_head=4)
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**GROUPED)),
    "tied llama": (LlamaForCausalLM, LlamaConfig(**GROUPED, tie_word_embeddings=True)),
    "llama without shared keys": (LlamaForCausalLM, LlamaConfig(**{**GROUPED, "num_key_value_heads": 8})),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**GROUPED)),
    "mistral": (MistralForCausalLM, MistralConfig(**GROUPED, head_dim=8)),
    "bloom": (BloomForCausalLM, BLOOM),
    "gpt2": (GPT2LMHeadModel, GPT2),
}
EVERYTHING = ("hf", "padded", "gguf", "gguf-f16")
HOLDS = dict.fromkeys(MODELS, EVERYTHING) | {"bloom": ("hf",), "gpt2": ("hf",)}
REASONS = {
    ("bloom", "padded"): "ALiBi; export as hf",
    ("bloom", "gguf"): "ALiBi slopes from the number of heads.*export as hf",
    ("bloom", "gguf-f16"): "ALiBi slopes from the number of heads.*export as hf",
    ("gpt2", "padded"): "export as hf",
    ("gpt2", "gguf"): "known are Llama.*export as hf",
    ("gpt2", "gguf-f16"): "known are Llama.*export as hf",
}
TABLE = [(name, format) for name in MODELS for format in EVERYTHING]


def pruned(name, layers, kinds=("mlp", "attention"), *, first=False):
    """Half the units of some layers: the last, unless the `first` are to be kept."""
    cls, config = MODELS[name]
    torch.manual_seed(0)
    config.initializer_range = 0.2
    model = cls(config).eval()
    groups = [g for g in discover(model).groups if g.kind in kinds and g.layer in layers]
    halves = {g.name: (0, g.num_units // 2) if first else (g.num_units // 2, g.num_units) for g in groups}
    remove(model, groups, {name: range(*half) for name, half in halves.items()})
    return model


@pytest.mark.slow
@pytest.mark.parametrize("layers", [(0, 1, 2), (1, 2)], ids=["equal", "per layer"])
@pytest.mark.parametrize("name, format", [pair for pair in TABLE if pair[1] in HOLDS[pair[0]]])
def test_a_format_that_holds_a_model_gives_it_back(name, format, layers, stories, tmp_path):
    save_model(pruned(name, layers), stories[1], tmp_path / "pruned")
    place = tmp_path / ("out.gguf" if format.startswith("gguf") else "out")
    export_model(tmp_path / "pruned", place, format)  # verifies logits and greedy text
    assert place.exists()


@pytest.mark.parametrize("layers", [(0, 1, 2), (1, 2)], ids=["equal", "per layer"])
@pytest.mark.parametrize("name, format", [pair for pair in TABLE if pair[1] not in HOLDS[pair[0]]])
def test_a_format_that_does_not_says_why_and_which_does(name, format, layers, stories, tmp_path):
    save_model(pruned(name, layers), stories[1], tmp_path / "pruned")
    place = tmp_path / ("out.gguf" if format.startswith("gguf") else "out")
    with pytest.raises(ValueError, match=REASONS[name, format]):
        export_model(tmp_path / "pruned", place, format)
    assert [path.name for path in tmp_path.iterdir()] == ["pruned"]


@pytest.mark.parametrize("kinds", [("mlp",), ("mlp", "attention")])
def test_bloom_pads_where_every_head_kept_stands_where_it_stood(kinds, stories, tmp_path):
    save_model(pruned("bloom", (1, 2), kinds, first=True), stories[1], tmp_path / "pruned")
    export_model(tmp_path / "pruned", tmp_path / "out", "padded")
    assert type(load_model(tmp_path / "out")) is BloomForCausalLM


def test_quantising_without_llama_cpps_tool_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="llama-quantize, which is not on PATH"):
        export_model("anything", tmp_path / "out.gguf", "gguf-q4_k_m")


@pytest.mark.parametrize("format, place", [("gguf", "out"), ("hf", "out.gguf")])
def test_a_name_that_promises_another_format_is_refused(format, place, tmp_path):
    with pytest.raises(ValueError, match=f"format {format} writes a"):
        export_model("anything", tmp_path / place, format)


def test_weights_are_split_into_files_of_the_size_asked_for(stories, tmp_path):
    save_model(pruned("llama", (1, 2)), stories[1], tmp_path / "pruned")
    export_model(tmp_path / "pruned", tmp_path / "out", max_shard_size="40KB")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    one, other = (load_model(tmp_path / place).state_dict() for place in ("pruned", "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("size", ["5", "GB", "-1GB", "1.5GB"])
def test_a_size_that_is_none_is_refused(size, tmp_path):
    with pytest.raises(ValueError, match="whole number of KB, MB or GB"):
        export_model("anything", tmp_path / "out", max_shard_size=size)
