import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pruner.groups import Group, Slice


@pytest.fixture
def tiny():
    """A random Llama: 6 layers, 4 query heads over 2 key-value heads, 24 channels."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def samples():
    """(6, 12) tokens for `tiny`."""
    return torch.randint(0, 50, (6, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def stories(data):
    """A real, tiny Llama and its tokenizer."""
    folder = data / "stories260K"
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def groups(tiny):
    """The groups of `tiny`, written down by hand: what discovery has to find."""
    return llama_groups(tiny.config)


def llama_groups(config):
    """MLP channels and key-value groups (with their query heads) of every layer."""
    groups = []
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        groups += [attention(f"{name}.self_attn", layer, config), mlp(f"{name}.mlp", layer, config)]
    return groups


def mlp(name, layer, config):
    index = np.arange(config.intermediate_size)[:, None]
    pieces = [("gate_proj", 0, False), ("up_proj", 0, False), ("down_proj", 1, True)]
    slices = tuple(Slice(f"{name}.{piece}.weight", dim, index, reads) for piece, dim, reads in pieces)
    return Group(name, "mlp", layer, config.intermediate_size, slices)


def attention(name, layer, config):
    num_groups = config.num_key_value_heads
    head_dim = config.hidden_size // config.num_attention_heads
    queries = np.arange(config.hidden_size).reshape(num_groups, -1)
    values = np.arange(num_groups * head_dim).reshape(num_groups, -1)
    pieces = [
        ("q_proj", 0, queries, False),
        ("k_proj", 0, values, False),
        ("v_proj", 0, values, False),
        ("o_proj", 1, queries, True),
    ]
    slices = tuple(Slice(f"{name}.{piece}.weight", dim, index, reads) for piece, dim, index, reads in pieces)
    return Group(name, "attention", layer, num_groups, slices)
