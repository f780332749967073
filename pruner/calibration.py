"""From text to calibration samples: windows of tokens drawn by a seed, the same ones everywhere."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from pruner.progress import Track, silent
from pruner.records import read_records

OWN_TEXT = "self"

MAX_DOCUMENTS = 10_000
"""Rows that are read at most; more are left unread, so that a hub data set of any size can be streamed."""


@dataclass(frozen=True)
class Calibration:
    """The text that estimation and compensation look at.

    Attributes:
        path: text, JSON, JSONL or Parquet file, or a hub data set; "self" for text that the model writes;
            None where a plan is replayed.
        num_samples: windows to draw.
        seq_len: tokens in each.
        seed: of the draw.
        field: which field of a row holds its text.
        split: of a hub data set.
    """

    path: str | None = None
    num_samples: int = 768
    seq_len: int = 128
    seed: int = 0
    field: str = "text"
    split: str = "train"

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.seq_len < 2:
            raise ValueError(
                "calibration needs at least 1 sample of at least 2 tokens, got "
                f"num_samples={self.num_samples} and seq_len={self.seq_len}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationData:
    """Calibration samples.

    Attributes:
        input_ids: (num_samples, seq_len) int64.
        fingerprint: sixteen hex digits that change with any token.
    """

    input_ids: Tensor
    fingerprint: str


def draw_samples(
    settings: Calibration,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    track: Track = silent,
) -> CalibrationData:
    """Calibration samples from a text, or written by the model where `settings.path` is "self"."""
    if settings.path != OWN_TEXT:
        return load_calibration(settings, tokenizer)
    input_ids = own_text(settings, model, tokenizer, track)
    return CalibrationData(input_ids, fingerprint(input_ids))


@torch.no_grad()
def own_text(
    settings: Calibration,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    track: Track = silent,
    batch_size: int = 16,
) -> Tensor:
    """What the model writes after a first token drawn at random, sampled at temperature 1.

    Data-free calibration (Liu et al. 2023, "LLM-QAT", section 3.1).

    Returns:
        (num_samples, seq_len) int64.

    Raises:
        ValueError: its predictions are not finite.
    """
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    draw = random.Random(settings.seed)
    first = torch.tensor([[draw.choice(ordinary)] for _ in range(settings.num_samples)])
    batches = first.split(batch_size)
    written = []
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(settings.seed)
        for batch in track(batches, "write calibration text", len(batches)):
            batch = batch.to(model.device)
            samples = model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                min_new_tokens=settings.seq_len - 1,
                max_new_tokens=settings.seq_len - 1,
                logits_processor=LogitsProcessorList([Finite()]),
            )
            written.append(samples.cpu())
    return torch.cat(written)


class Finite(LogitsProcessor):
    """Lets predictions through that a token can be drawn by."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(batch, seq_len) and (batch, vocab_size) -> the scores as they are."""
        if scores.isnan().any() or scores.isposinf().any():
            raise ValueError(
                "the model cannot write its own calibration text: its predictions at token "
                f"{input_ids.shape[1]} are not finite; load the model in bfloat16 or float32, or name a text "
                "in calibration.path"
            )
        return scores


def load_calibration(settings: Calibration, tokenizer: PreTrainedTokenizerBase) -> CalibrationData:
    """Draw windows at random places of random documents, each at least a window long.

    LLM-Pruner's protocol (Ma et al. 2023, section 4.1): one window of a document. Only when every document
    has given one are further windows taken, none of which overlap.

    Raises:
        ValueError: no path, a row without text, or less text than asked for.
    """
    if settings.path is None:
        raise ValueError(
            "calibration.path is missing: name a file of text or a hub data set, or 'self' "
            "for text that the model writes"
        )
    draw = random.Random(settings.seed)
    texts = list(islice(_texts(settings), MAX_DOCUMENTS))
    draw.shuffle(texts)
    lengths: list[int] = []
    documents = (_windows(text, tokenizer, settings.seq_len, draw, lengths) for text in texts)
    windows = list(islice(_in_turns(documents), settings.num_samples))
    if len(windows) < settings.num_samples:
        raise ValueError(
            f"{settings.path} is too short for {settings.num_samples} samples of {settings.seq_len} tokens: "
            f"{len(lengths)} documents with {sum(lengths)} tokens (at most {max(lengths, default=0)} in one) "
            f"hold {len(windows)}; ask for fewer or shorter samples, or give more text"
        )
    input_ids = torch.tensor(windows, dtype=torch.int64)
    return CalibrationData(input_ids, fingerprint(input_ids))


def fingerprint(input_ids: Tensor) -> str:
    """Sixteen hex digits of the tokens and their arrangement."""
    values = input_ids.to("cpu", torch.int64).contiguous().numpy().astype("<i8").tobytes()
    return hashlib.sha256(repr(tuple(input_ids.shape)).encode() + values).hexdigest()[:16]


def _texts(settings: Calibration) -> Iterator[str]:
    for record, place in read_records(str(settings.path), settings.split):
        text = record.get(settings.field)
        if not isinstance(text, str):
            raise ValueError(
                f"{place}: expected text in field {settings.field!r}, got fields {', '.join(record)}; "
                "name the right one in calibration.field"
            )
        yield text


def _windows(
    text: str, tokenizer: PreTrainedTokenizerBase, seq_len: int, draw: random.Random, lengths: list[int]
) -> list[Sequence[int]]:
    """All windows that fit side by side behind a random offset, in random order; notes the text's length."""
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    lengths.append(len(ids))
    count = len(ids) // seq_len
    offset = draw.randint(0, len(ids) - count * seq_len)
    starts = [offset + i * seq_len for i in range(count)]
    draw.shuffle(starts)
    return [ids[start : start + seq_len] for start in starts]


def _in_turns(documents: Iterator[list[Sequence[int]]]) -> Iterator[Sequence[int]]:
    """The first window of every document, then the second of each that has one, and so on."""
    seen = []
    for windows in documents:
        if windows:
            seen.append(windows[1:])
            yield windows[0]
    for turn in zip_longest(*seen):
        yield from (window for window in turn if window is not None)
