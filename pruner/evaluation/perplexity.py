"""Perplexity by LLM-Pruner's protocol: one long text, windows that do not overlap, a mean over tokens."""

import io
import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.progress import Track, silent
from pruner.records import read_records

TEXT_FIELDS = ("text", "sentence", "content")
WIKITEXT_SUFFIXES = (".raw", ".tokens")
PTB_FILES = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")


def load_text(
    path: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None = None, split: str = "test"
) -> Tensor:
    r"""Tokenize a text as one sequence: its rows joined by "\n\n", special tokens as the tokenizer adds them.

    Args:
        path: a text, JSON, JSONL or Parquet file, WikiText's own `.raw` or `.tokens` file, Mikolov's
            `ptb.valid.txt` of the Penn Treebank, or a hub data set ("wikitext:wikitext-2-raw-v1"); rows carry
            their text in "text", "sentence" or "content".
        tokenizer: of the model to be measured.
        max_tokens: keep only this many, from the start.
        split: of a hub data set.

    Returns:
        (num_tokens,) int64.

    Raises:
        ValueError: nothing lies at `path`, a row has no text, or there is no text at all.
    """
    text = "\n\n".join(_rows(path, split))
    if not text.strip():
        raise ValueError(f"{path} holds no text; perplexity needs at least one window of it")
    ids: Tensor = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    return ids[:max_tokens]


def perplexity(
    model: PreTrainedModel,
    input_ids: Tensor,
    seq_len: int = 128,
    batch_size: int = 8,
    track: Track = silent,
) -> float:
    """Exponential of the mean loss per predicted token, each window read without what came before it.

    The protocol of LLM-Pruner (Ma et al. 2023, section 4.1: windows of 128 tokens): a window predicts its
    last `seq_len - 1` tokens, and a remainder shorter than a window is left out.

    Args:
        model: in evaluation mode, on any device.
        input_ids: (num_tokens,) int64, at least `seq_len` of them.
        seq_len: tokens in a window.
        batch_size: windows in one forward pass; no influence on the result.
        track: sees the batches go by.

    Raises:
        ValueError: the text is shorter than a window, or the window does not fit the model's context.
    """
    check_window(model, seq_len)
    num_windows = len(input_ids) // seq_len
    if not num_windows:
        raise ValueError(
            f"the text has {len(input_ids)} tokens, fewer than one window of {seq_len}; "
            "take a longer text or a smaller seq_len"
        )
    batches = input_ids[: num_windows * seq_len].view(num_windows, seq_len).split(batch_size)
    losses = [_window_losses(model, batch) for batch in track(batches, "perplexity", len(batches))]
    total = math.fsum(chain.from_iterable(losses))
    return math.exp(total / (num_windows * (seq_len - 1)))


def check_window(model: PreTrainedModel, seq_len: int) -> None:
    """Raise ValueError unless the model can read `seq_len` tokens at once."""
    context = getattr(model.config, "max_position_embeddings", None)
    if seq_len < 2 or (context is not None and seq_len > context):
        raise ValueError(
            f"a window must have between 2 and {context or 'any number of'} tokens, what the model's "
            f"context holds; got {seq_len}"
        )


@torch.inference_mode()
def _window_losses(model: PreTrainedModel, windows: Tensor) -> list[float]:
    """Summed loss of each window, in nats; one window's logits at a time are widened to fp32."""
    windows = windows.to(model.device)
    logits = model(windows, use_cache=False).logits
    return [
        F.cross_entropy(scores[:-1].float(), targets[1:], reduction="sum").item()
        for scores, targets in zip(logits, windows)
    ]


def _rows(path: str, split: str) -> Iterator[str]:
    if Path(path).suffix in WIKITEXT_SUFFIXES:
        yield from _wikitext_rows(Path(path))
        return
    if Path(path).name in PTB_FILES:
        ((record, _),) = read_records(path)
        yield from (line.strip() for line in record["text"].splitlines())  # a sentence each, as on the hub
        return
    for record, place in read_records(path, split):
        field = next((name for name in TEXT_FIELDS if isinstance(record.get(name), str)), None)
        if field is None:
            raise ValueError(
                f"{place}: expected text in one of the fields {', '.join(TEXT_FIELDS)}, "
                f"got {', '.join(record)}"
            )
        yield record[field]


def _wikitext_rows(file: Path) -> Iterator[str]:
    """The rows that the hub's `wikitext` makes of the file: each line with its end, an empty one as ""."""
    ((record, _),) = read_records(str(file))
    for line in io.StringIO(record["text"]):
        yield line if line.strip() else ""
