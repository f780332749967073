"""Tokenised once: examples in a memory-mapped Arrow file, complete or absent."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lit_modules.encoding import Encoded

FILE = "examples.arrow"
SCHEMA = pa.schema(
    {"input_ids": pa.list_(pa.int32()), "num_prompt": pa.int32(), "length": pa.int32(), "digest": pa.uint64()}
)


def write_examples(folder: Path, chunks: Iterable[list[Encoded]], description: dict[str, Any]) -> None:
    """Write examples and their description to the side, then rename; memory stays at one chunk.

    Whoever finishes first wins, should two processes build the same cache.

    Raises:
        ValueError: there is not one example.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    side = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        num_rows = _write_arrow(side / FILE, chunks)
        if not num_rows:
            raise ValueError(f"no example to learn from: {description}")
        (side / "description.json").write_text(json.dumps({**description, "num_rows": num_rows}, indent=1))
        _publish(side, folder)
    finally:
        shutil.rmtree(side, ignore_errors=True)


def _publish(side: Path, folder: Path) -> None:
    try:
        os.replace(side, folder)
    except OSError:
        if not folder.is_dir():
            raise


def _write_arrow(file: Path, chunks: Iterable[list[Encoded]]) -> int:
    num_rows = 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for chunk in chunks:
            if chunk:
                writer.write_batch(_as_arrow(chunk))
                num_rows += len(chunk)
    return num_rows


def _as_arrow(chunk: list[Encoded]) -> pa.RecordBatch:
    lengths = np.array([len(example.input_ids) for example in chunk], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = pa.array(np.concatenate([example.input_ids for example in chunk]))
    columns = [
        pa.ListArray.from_arrays(pa.array(offsets), ids),
        pa.array([example.num_prompt for example in chunk], pa.int32()),
        pa.array(lengths),
        pa.array([example.digest for example in chunk], pa.uint64()),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Caches, opened as one: the ids stay on disk, what sampling needs of every row is in memory.

    Attributes:
        lengths, num_prompts, digests: (num_rows,) of every example.
        bounds: where in these each cache's rows begin, and the end.
    """

    lengths: NDArray[np.int32]
    num_prompts: NDArray[np.int32]
    digests: NDArray[np.uint64]
    bounds: list[int]
    _starts: NDArray[np.int64]
    _chunks: list[Any]

    def __len__(self) -> int:
        return len(self.lengths)

    def input_ids(self, row: int) -> NDArray[np.int32]:
        """(length,) token ids of one example, a view into the file."""
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        ids: NDArray[np.int32] = self._chunks[chunk][row - self._starts[chunk]].values.to_numpy()
        return ids


def open_examples(folders: Sequence[Path]) -> Examples:
    """Memory-map what `write_examples` wrote into `folders`."""
    files = [_batches(folder / FILE) for folder in folders]
    batches = [batch for file in files for batch in file]
    lengths, num_prompts, digests = (
        np.concatenate([batch.column(name).to_numpy() for batch in batches])
        for name in ("length", "num_prompt", "digest")
    )
    starts = np.cumsum([0] + [batch.num_rows for batch in batches[:-1]])
    bounds = np.cumsum([0] + [sum(batch.num_rows for batch in file) for file in files]).tolist()
    ids = [batch.column("input_ids") for batch in batches]
    return Examples(lengths, num_prompts, digests, bounds, starts, ids)


def _batches(file: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(file)))
    return [reader.get_batch(index) for index in range(reader.num_record_batches)]
