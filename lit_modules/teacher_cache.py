"""A teacher's likeliest tokens for every example, asked once and kept: complete or absent."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lit_modules.bundling import by_length
from lit_modules.collation import Collate
from lit_modules.distillation import Distillation, Likeliest
from lit_modules.sampling import Share, held_out_picks
from lit_modules.token_cache import Examples
from pruner.progress import Track, silent
from pruner.run_folder import content_identity

FILES = {"log_probabilities": np.float16, "tokens": np.uint32}
BATCH_SIZE = 8

Teacher = Callable[[Mapping[str, Any]], Likeliest]


@dataclass(frozen=True, slots=True, eq=False)
class CachedTeacher:
    """A teacher that is looked up.

    Attributes:
        starts: (num_examples + 1,) where each example's learned tokens begin.
        log_probabilities, tokens: (num_learned, k), on disk.
    """

    starts: NDArray[np.int64]
    log_probabilities: NDArray[np.float16]
    tokens: NDArray[np.uint32]

    def __call__(self, batch: Mapping[str, Any]) -> Likeliest:
        """Its distributions at a batch's learned tokens, example after example."""
        rows = [int(row) for row in batch["rows"] if row >= 0]
        spans = [slice(self.starts[row], self.starts[row + 1]) for row in rows]
        log_probabilities = np.concatenate([self.log_probabilities[span] for span in spans])
        tokens = np.concatenate([self.tokens[span] for span in spans]).astype(np.int64)
        return Likeliest(torch.from_numpy(log_probabilities).float(), torch.from_numpy(tokens))


def cache_folder(cache_dir: Path, teacher: str, settings: Distillation, examples: list[str]) -> Path:
    """Where a teacher's answers to these examples are kept, named by everything they depend on."""
    described = repr([content_identity(teacher), settings.temperature, settings.top_k, examples])
    return cache_dir / f"teacher-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


def write_answers(
    folder: Path, teacher: Teacher, examples: Examples, top_k: int, track: Track = silent
) -> None:
    """Ask `teacher` for every example, write to the side, then rename."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    side = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(side, teacher, examples, top_k, track)
        os.replace(side, folder)
    finally:
        shutil.rmtree(side, ignore_errors=True)


def _write(side: Path, teacher: Teacher, examples: Examples, top_k: int, track: Track) -> None:
    starts = learned_starts(examples)
    shape = (int(starts[-1]), top_k)
    files = {
        name: np.lib.format.open_memmap(side / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        for name, dtype in FILES.items()
    }
    bundling = by_length(examples.lengths, BATCH_SIZE)
    collate = Collate(examples, np.arange(len(examples)))
    picks = list(held_out_picks(bundling, Share(1)))
    for pick in track(picks, "the teacher answers", len(picks)):
        batch = collate(pick)
        answers = teacher(batch)
        assert answers.tokens is not None
        places = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in batch["rows"].tolist()])
        files["log_probabilities"][places] = answers.log_probabilities.cpu().numpy()
        files["tokens"][places] = answers.tokens.cpu().numpy()
    for file in files.values():
        file.flush()


def open_answers(folder: Path, examples: Examples) -> CachedTeacher:
    """Memory-map what `write_answers` wrote."""
    log_probabilities, tokens = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in FILES)
    return CachedTeacher(learned_starts(examples), log_probabilities, tokens)


def learned_starts(examples: Examples) -> NDArray[np.int64]:
    """(num_examples + 1,) where each example's learned tokens begin when all lie in one row."""
    learned = examples.lengths.astype(np.int64) - examples.num_prompts
    return np.append(0, np.cumsum(learned))
