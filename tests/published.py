"""The published models' own configurations, so that tests meet their true sizes without a hub."""

from typing import Any

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from tests.baichuan import Baichuan13B


def llama(*sizes: int, **more: Any) -> PreTrainedConfig:
    return like_llama(LlamaConfig, *sizes, **more)


def like_llama(
    cls: type[Any], hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any
) -> PreTrainedConfig:
    """A configuration whose widths go by Llama's names."""
    return cls(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        architectures=[cls.__name__.replace("Config", "ForCausalLM")],
        **more,
    )


def gemma3(*sizes: int, **more: Any) -> PreTrainedConfig:
    """The text half of Gemma 3, whose class drops the word for text."""
    config = like_llama(Gemma3TextConfig, *sizes, **more)
    config.architectures = ["Gemma3ForCausalLM"]
    return config


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
        "baichuan-7b": lambda: llama(4096, 11008, 32, 32, 32, 64000),
        "baichuan-13b": lambda: llama(5120, 13696, 40, 40, 40, 64000),
        "mistral-7b": lambda: like_llama(MistralConfig, 4096, 14336, 32, 32, 8, 32000),
        "mixtral-8x7b": lambda: like_llama(MixtralConfig, 4096, 14336, 32, 32, 8, 32000),
        "qwen2-7b": lambda: like_llama(Qwen2Config, 3584, 18944, 28, 28, 4, 152064),
        "qwen3-8b": lambda: like_llama(Qwen3Config, 4096, 12288, 36, 32, 8, 151936, head_dim=128),
        "gemma-2-9b": lambda: like_llama(Gemma2Config, 3584, 14336, 42, 16, 8, 256000, head_dim=256),
        "gemma-7b": lambda: like_llama(GemmaConfig, 3072, 24576, 28, 16, 16, 256000, head_dim=256),
        "gemma-3-1b": lambda: gemma3(1152, 6912, 26, 4, 1, 262144, head_dim=256),
        "opt-6.7b": lambda: OPTConfig(
            vocab_size=50272,
            hidden_size=4096,
            word_embed_proj_dim=4096,
            ffn_dim=16384,
            num_hidden_layers=32,
            num_attention_heads=32,
            architectures=["OPTForCausalLM"],
        ),
        "phi-3-mini": lambda: like_llama(Phi3Config, 3072, 8192, 32, 32, 32, 32064),
        "olmo-7b": lambda: like_llama(OlmoConfig, 4096, 11008, 32, 32, 32, 50304),
        "starcoder2-7b": lambda: like_llama(Starcoder2Config, 4608, 18432, 32, 36, 4, 49152),
        "pythia-6.9b": lambda: GPTNeoXConfig(
            hidden_size=4096,
            intermediate_size=16384,
            num_hidden_layers=32,
            num_attention_heads=32,
            vocab_size=50432,
            architectures=["GPTNeoXForCausalLM"],
        ),
        "falcon-7b": lambda: FalconConfig(
            hidden_size=4544,
            num_hidden_layers=32,
            num_attention_heads=71,
            vocab_size=65024,
            architectures=["FalconForCausalLM"],
        ),
        "gpt2": lambda: GPT2Config(architectures=["GPT2LMHeadModel"]),
        "bloom-7b1": lambda: BloomConfig(
            hidden_size=4096, n_layer=30, n_head=32, vocab_size=250880, architectures=["BloomForCausalLM"]
        ),
    }[name]()


def published_model(name: str) -> nn.Module:
    """The model that `configs/<name>.yaml` prunes, on the device that is the default."""
    if name == "baichuan-13b":
        return Baichuan13B()
    return AutoModelForCausalLM.from_config(published_config(name), attn_implementation="eager")
