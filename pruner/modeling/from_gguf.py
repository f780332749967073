"""A GGUF file as an ordinary model: weights in floating point, and the tokenizer's own splitting restored."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from pruner.modeling.source import Source

if TYPE_CHECKING:
    import torch
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DIGITS_FIRST = frozenset({"smollm"})
"""Values of `tokenizer.ggml.pre` whose digits are split one by one before the byte-level regex.

transformers drops that step, so "\\n\\n1." comes out otherwise than the model was trained on.
"""


def load_gguf_model(source: Source, dtype: str | torch.dtype | None, **options: Any) -> PreTrainedModel:
    """Dequantise into a fresh model that knows nothing of GGUF, so that it can be saved again.

    Args:
        source: with its `gguf_file`.
        dtype: of the weights, None for float32.
        options: further arguments of `from_pretrained`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    require_gguf()
    dtype = torch.float32 if dtype in (None, "auto") else dtype
    loaded = AutoModelForCausalLM.from_pretrained(
        source.name, gguf_file=source.gguf_file, dtype=dtype, **options
    )
    values = loaded.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "model_type"):
        values.pop(key, None)
    config = type(loaded.config)(**values)
    fresh: PreTrainedModel = type(loaded).from_pretrained(
        None, config=config, state_dict=loaded.state_dict(), dtype=loaded.dtype
    )
    fresh.generation_config = loaded.generation_config
    return fresh.eval()


def load_gguf_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer in the file, split into words as llama.cpp splits them."""
    from transformers import AutoTokenizer

    require_gguf()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source.name, gguf_file=source.gguf_file
    )
    assert source.gguf_path
    if metadata(source.gguf_path, "tokenizer.ggml.pre") in DIGITS_FIRST:
        tokenizer.backend_tokenizer.pre_tokenizer = digits_then_bytes()
    return tokenizer


def digits_then_bytes() -> PreTokenizer:
    """Single digits first, then GPT-2's byte-level words."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])


def metadata(path: str, key: str) -> Any:
    """One value of the file's header, None if it is not there."""
    from gguf import GGUFReader

    found = GGUFReader(path).get_field(key)
    return found.contents() if found else None


def require_gguf() -> None:
    """Raise ValueError if the package that reads GGUF files is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError("reading a .gguf file needs the package gguf: pip install 'llm-prune[gguf]'")
