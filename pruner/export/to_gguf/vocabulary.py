"""A tokenizer as llama.cpp reads it: byte-level BPE, or SentencePiece's BPE with bytes to fall back on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITTERS = {
    ("bytes",): "gpt-2",
    ("digits", "bytes"): "smollm",
    (LLAMA_3,): "llama-bpe",
    (LLAMA_3.replace("{1,3}", ""),): "qwen2",
}
"""How text is split before BPE -> llama.cpp's name for it."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF header says of a tokenizer.

    Attributes:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece).
        splitter: llama.cpp's name for the splitting before BPE, "default" for SentencePiece.
        tokens: one for every row of the embedding.
        types: NORMAL, CONTROL ... of each.
        merges: of byte-level BPE, "left right", best first; empty for SentencePiece.
        scores: of SentencePiece, the best is merged first; empty for byte-level BPE.
        space_prefix: whether a text is read as if it began with a space.
        starts: whether a text begins with the token `bos`.
        special: "bos", "eos", "unk", "pad" -> id.
        template: the chat template, None for none.
    """

    model: str
    splitter: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    space_prefix: bool
    starts: bool
    special: dict[str, int]
    template: str | None


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Read a tokenizer's parts.

    Args:
        tokenizer: one that the library tokenizers computes.
        size: rows of the model's embedding; those without a token become unused ones.

    Raises:
        ValueError: it is of a kind that llama.cpp does not have, or has more tokens than there are rows.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    if spec["model"]["type"] != "BPE":
        raise refused(f"a {spec['model']['type']} tokenizer")
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    if len(tokens) > size:
        raise ValueError(f"the tokenizer has {len(tokens)} tokens and the model {size} rows for them")
    merges = tuple(" ".join(pair) for pair in spec["model"]["merges"])
    pieces = spec["model"]["byte_fallback"]
    tokens += [f"[PAD{index}]" for index in range(len(tokens), size)]
    return Vocabulary(
        model="llama" if pieces else "gpt2",
        splitter="default" if pieces else splitter(spec),
        tokens=tuple(tokens),
        types=tuple(types(tokenizer, spec, size, pieces)),
        merges=() if pieces else merges,
        scores=tuple(scores(tokens, spec["model"]["merges"])) if pieces else (),
        space_prefix=pieces and prepends_space(spec),
        starts=tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id,
        special=special(tokenizer),
        template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def refused(what: str) -> ValueError:
    """The error for a tokenizer that llama.cpp does not have."""
    return ValueError(
        f"gguf cannot hold {what}: known are SentencePiece's BPE with byte fallback, and byte-level BPE with "
        f"the splitting of {', '.join(SPLITTERS.values())}; export as hf"
    )


def splitter(spec: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level BPE splits text first."""
    outer = spec["pre_tokenizer"] or {"type": "none"}
    steps = tuple(step_name(step) for step in outer.get("pretokenizers", [outer]))
    if steps[-1:] == ("alphabet",):  # bytes as letters, and no splitting of its own
        steps = steps[:-1]
    if steps not in SPLITTERS or (spec["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        raise refused(f"a tokenizer that splits text by {steps}")
    return SPLITTERS[steps]


def step_name(step: dict[str, Any]) -> str:
    """One step of splitting: the regular expression, or a word for it."""
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return str(step["pattern"].get("Regex"))
    if step["type"] == "Digits" and step["individual_digits"]:
        return "digits"
    if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
        return "bytes" if step["use_regex"] else "alphabet"
    return json.dumps(step)


def types(tokenizer: PreTrainedTokenizerBase, spec: dict[str, Any], size: int, pieces: bool) -> list[int]:
    """The kind of every token."""
    added = {entry["id"]: CONTROL if entry["special"] else USER_DEFINED for entry in spec["added_tokens"]}
    found = []
    for index in range(size):
        token = tokenizer.convert_ids_to_tokens(index) if index < len(tokenizer) else None
        kind = UNUSED if token is None else added.get(index, NORMAL)
        if pieces and token is not None:
            kind = BYTE if BYTE_PIECE.fullmatch(token) else kind
            kind = UNKNOWN if index == tokenizer.unk_token_id else kind
        found.append(kind)
    return found


def scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """The score of every piece: that of the earliest merge which makes it, so that the order is the same."""
    rank: dict[str, int] = {}
    for index, pair in enumerate(merges):
        rank.setdefault("".join(pair), index)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def prepends_space(spec: dict[str, Any]) -> bool:
    """Whether SentencePiece's tokenizer puts a space before a text."""
    steps = [spec["normalizer"] or {}, spec["pre_tokenizer"] or {}]
    steps += [
        inner for step in list(steps) for inner in step.get("normalizers", step.get("pretokenizers", []))
    ]
    return any(
        step.get("type") == "Prepend"
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never")
        for step in steps
    )


def special(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens with a task: its name -> id."""
    found = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    return {name: index for name, index in found.items() if index is not None}
