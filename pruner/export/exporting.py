"""export_model(): read a model folder, write it in another format, compare the two."""

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pruner.checkpoint import load_model, load_tokenizer, save_model
from pruner.export.padding import padded
from pruner.export.sharding import check_shard_size, split_weights
from pruner.export.to_gguf import QUANTISATIONS, check_tool, quantise, round_weights, verify_gguf, write_gguf
from pruner.export.verification import has_room, verify_export

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def export_model(
    model: str | Path,
    output: str | Path,
    format: str = "hf",
    *,
    verify: bool = True,
    trust: bool = False,
    max_shard_size: str | None = None,
) -> None:
    """Write the model in a folder (or any other place models are loaded from) to another place.

    Args:
        model: what to read; as for `pruner.checkpoint.load_model`.
        output: the folder or, for gguf, the file to write; must not exist, and does not if this fails.
        format: "hf", for transformers: a stock class where one describes it, else with its code beside it;
            "padded", the dense shapes with zeros where something went, for runtimes that know no other;
            "gguf" and "gguf-f16", one file for llama.cpp, in float32 and float16; "gguf-q4_k_m" and its
            like, quantised by llama.cpp's own tool.
        verify: load the result in a fresh process and compare logits and greedy text, where memory suffices;
            of a quantised file, what is quantised.
        trust: run model code that lies beside the weights.
        max_shard_size: of each file of weights in a folder, such as "5GB"; None for as few as there can be.

    Raises:
        ValueError: there is no such model or format, `output` exists, the format cannot hold the model, or
            what was written is not the same model.
    """
    output = Path(output)
    check(output, format, max_shard_size)
    loaded = load_model(model, trust_remote_code=trust)
    tokenizer = load_tokenizer(model, trust_remote_code=trust)
    write_export(loaded, tokenizer, output, format, verify=verify, max_shard_size=max_shard_size)


def write_export(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    output: Path,
    format: str,
    *,
    verify: bool = True,
    max_shard_size: str | None = None,
) -> None:
    """Write a model in memory, on the CPU, as `export_model` does; its weights may change on the way."""
    check(output, format, max_shard_size)
    sharding = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    with beside(output) as written:
        FORMATS[format](model, tokenizer, written, verify and has_room(model), **sharding)


@contextmanager
def beside(output: Path) -> Iterator[Path]:
    """A place to write to that becomes `output` when the block ends well, and nothing otherwise."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as place:
        written = Path(place) / output.name
        yield written
        os.replace(written, output)


def check(output: Path, format: str, max_shard_size: str | None, known: Collection[str] = ()) -> None:
    """Raise ValueError for what can be seen to be wrong before a model is loaded.

    Args:
        output: what is to be written.
        format: as what.
        max_shard_size: of each file.
        known: the formats that the caller writes; those of `FORMATS` by default.
    """
    known = known or FORMATS
    if format not in known:
        raise ValueError(f"no format {format!r}; there are {', '.join(known)}")
    if output.exists():
        raise ValueError(f"{output} exists; choose a new place")
    is_file = format.startswith("gguf")
    if (output.suffix == ".gguf") != is_file:
        what = "a file whose name ends in .gguf" if is_file else "a folder"
        raise ValueError(f"format {format} writes {what}, got {output}")
    if max_shard_size is not None:
        check_shard_size(max_shard_size)
        if is_file:
            raise ValueError("max_shard_size is for folders; a gguf is one file")
    if format.removeprefix("gguf-") in QUANTISATIONS:
        check_tool()


def export_folder(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    output: Path,
    verify: bool,
    max_shard_size: str | None = None,
) -> None:
    """Write a folder for transformers."""
    save_model(model, tokenizer, output)
    if max_shard_size is not None:
        split_weights(output, max_shard_size)
    if verify:
        verify_export(model, output)


def export_padded(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    output: Path,
    verify: bool,
    max_shard_size: str | None = None,
) -> None:
    """Write a folder with the dense model's shapes."""
    export_folder(padded(model), tokenizer, output, verify, max_shard_size)


def export_gguf(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    output: Path,
    verify: bool,
    *,
    dtype: torch.dtype,
) -> None:
    """Write one file for llama.cpp; `model` gets the weights that the file holds."""
    round_weights(model, dtype)
    write_gguf(model, tokenizer, output, dtype)
    if verify:
        verify_gguf(model, output)


def export_quantised(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", output: Path, verify: bool, *, kind: str
) -> None:
    """Write one file for llama.cpp, then have its own tool quantise it."""
    whole = output.with_name("whole.gguf")
    export_gguf(model, tokenizer, whole, verify, dtype=torch.float32)
    quantise(whole, output, kind)


FORMATS: Mapping[str, Callable[..., None]] = {
    "hf": export_folder,
    "padded": export_padded,
    "gguf": partial(export_gguf, dtype=torch.float32),
    "gguf-f16": partial(export_gguf, dtype=torch.float16),
    **{f"gguf-{kind}": partial(export_quantised, kind=kind) for kind in QUANTISATIONS},
}
"""Format -> what writes it and, if asked to, reads it back."""
