"""Writes a GGUF file: what its header says, and the weights as llama.cpp wants them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruner.export.to_gguf.layout import EQUAL, Layout, layout_of
from pruner.export.to_gguf.vocabulary import Vocabulary, vocabulary_of
from pruner.modeling.from_gguf import require_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def round_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give the model the very weights that a file of this precision holds, as float32, in place.

    Vectors (norms, biases) stay float32 in the file, as llama.cpp's own converter leaves them.

    Raises:
        ValueError: a weight is too large for `dtype`.
    """
    for name, parameter in model.named_parameters():
        held = parameter.data.to(dtype) if parameter.dim() > 1 else parameter.data
        if not held.isfinite().all():
            raise ValueError(f"{name} holds a number too large for {dtype}; export as gguf, in float32")
        parameter.data = held.float()


def write_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, dtype: torch.dtype
) -> None:
    """Write a model of Llama's kind as one GGUF file.

    Where all layers have equal counts it says `llama`, else `deci`, which has them per layer.

    Args:
        model: pruned or not, its weights in float32.
        tokenizer: BPE, of SentencePiece or byte-level.
        path: the file to write.
        dtype: of the matrices, float32 or float16.

    Raises:
        ValueError: llama.cpp cannot compute this model or read this tokenizer, or gguf is not installed.
    """
    require_gguf()
    from gguf import GGUFWriter, LlamaFileType

    layout = layout_of(model)
    vocabulary = vocabulary_of(tokenizer, layout.vocab_size)
    writer = GGUFWriter(str(path), layout.arch)
    writer.add_name(path.stem)
    writer.add_file_type(LlamaFileType.MOSTLY_F16 if dtype == torch.float16 else LlamaFileType.ALL_F32)
    add_layout(writer, layout)
    add_vocabulary(writer, vocabulary)
    for name, tensor in tensors(model, layout):
        held = tensor.to(dtype) if tensor.dim() > 1 else tensor.float()
        writer.add_tensor(name, held.detach().cpu().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_layout(writer: Any, layout: Layout) -> None:
    """Write the model's shape: one number where all layers agree, else a list."""
    equal = layout.arch == EQUAL
    writer.add_vocab_size(layout.vocab_size)
    writer.add_context_length(layout.context_length)
    writer.add_embedding_length(layout.hidden_size)
    writer.add_block_count(len(layout.heads))
    writer.add_feed_forward_length(layout.channels[0] if equal else list(layout.channels))
    writer.add_head_count(layout.heads[0] if equal else list(layout.heads))
    writer.add_head_count_kv(layout.kv_heads[0] if equal else list(layout.kv_heads))
    writer.add_key_length(layout.head_dim)
    writer.add_value_length(layout.head_dim)
    writer.add_rope_dimension_count(layout.head_dim)
    writer.add_rope_freq_base(layout.theta)
    writer.add_layer_norm_rms_eps(layout.epsilon)


def add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """Write the tokenizer."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.splitter)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
    for name, index in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(vocabulary.starts)
    writer.add_add_space_prefix(vocabulary.space_prefix)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def tensors(model: PreTrainedModel, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """(name in the file, tensor) for every weight; a tied head is left out and found in the embedding."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    arch = next(arch for arch in MODEL_ARCH if arch.name.lower() == layout.arch)
    names = get_tensor_name_map(arch, len(layout.heads))
    if layout.rope_factors is not None:
        yield "rope_freqs.weight", layout.rope_factors
    for name, tensor in model.named_parameters():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, name
        yield found, interleaved(name, tensor, layout)


def interleaved(name: str, tensor: Tensor, layout: Layout) -> Tensor:
    """Put what a rotary embedding turns together side by side: row i of a head's first half next to i of
    its second. Keys have as many heads as their own layer, not the model, says."""
    _, _, layer, _, projection, *_ = [*name.split("."), *[""] * 5]
    heads = {"q_proj": layout.heads, "k_proj": layout.kv_heads}.get(projection)
    if heads is None:
        return tensor
    rows = tensor.reshape(heads[int(layer)], 2, layout.head_dim // 2, *tensor.shape[1:])
    return rows.transpose(1, 2).reshape(tensor.shape)
