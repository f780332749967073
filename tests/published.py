"""The published models' own configurations, so that tests meet their true sizes without a hub."""

from typing import Any

from transformers import BloomConfig, LlamaConfig, PreTrainedConfig


def llama(
    hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any
) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        architectures=["LlamaForCausalLM"],
        **more,
    )


def published_config(name: str) -> PreTrainedConfig:
    """The configuration of the model that `configs/<name>.yaml` prunes."""
    return {
        "smollm2-135m": lambda: llama(576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True),
        "demo": lambda: llama(576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True),
        "tinyllama-1.1b": lambda: llama(2048, 5632, 22, 32, 4, 32000),
        "llama-7b": lambda: llama(4096, 11008, 32, 32, 32, 32000),
        "llama-2-7b": lambda: llama(4096, 11008, 32, 32, 32, 32000),
        "vicuna-7b": lambda: llama(4096, 11008, 32, 32, 32, 32000),
        "llama-3-8b": lambda: llama(4096, 14336, 32, 32, 8, 128256),
        "llama-3.1-8b": lambda: llama(4096, 14336, 32, 32, 8, 128256),
        "bloom-7b1": lambda: BloomConfig(
            hidden_size=4096, n_layer=30, n_head=32, vocab_size=250880, architectures=["BloomForCausalLM"]
        ),
    }[name]()
