"""Where rows of text come from: JSON, JSONL, Parquet and text files, or a data set of the hub."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Record = tuple[dict[str, Any], str]

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def read_records(path: str, split: str = "train") -> Iterator[Record]:
    """Yield every row of `path` with its place ("file:line"), for error messages.

    JSONL, Parquet and hub data sets are streamed; a JSON list is read whole; a text file is one row
    {"text": its whole content}.

    Args:
        path: a .json, .jsonl, .parquet or .txt file, or a hub name ("yahma/alpaca-cleaned", or
            "wikitext:wikitext-2-raw-v1" with a configuration).
        split: the split of a hub data set; files have none.

    Raises:
        ValueError: nothing lies at `path`, its form is unknown, or a row is no JSON object.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return _reader(file)(file)
    if file.is_dir():
        raise ValueError(f"{path} is a folder; name one of its files ({', '.join(sorted(READERS))})")
    if file.suffix.lower() in READERS or not HUB_NAME.fullmatch(path):
        raise ValueError(f"there is no file {path}; expected {', '.join(sorted(READERS))} or a hub name")
    return _hub_rows(path, split)


def _reader(file: Path) -> Callable[[Path], Iterator[Record]]:
    try:
        return READERS[file.suffix.lower()]
    except KeyError:
        raise ValueError(f"cannot read {file}: expected one of {', '.join(sorted(READERS))}") from None


def _json_rows(file: Path) -> Iterator[Record]:
    """Rows of a JSON list; a .json file that starts with an object is read as JSON lines."""
    text = file.read_text(encoding="utf-8-sig")
    position = _skip(text, 0, "")
    if text[position : position + 1] != "[":
        yield from _json_line_rows(file)
        return
    decoder = json.JSONDecoder()
    position, line, counted = _skip(text, position + 1, ""), 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
        yield _object(row, f"{file}:{line}"), f"{file}:{line}"
        position = _skip(text, position, ",")


def _skip(text: str, position: int, also: str) -> int:
    """The first position from `position` on that holds neither white space nor a character of `also`."""
    while position < len(text) and (text[position].isspace() or text[position] in also):
        position += 1
    return position


def _json_line_rows(file: Path) -> Iterator[Record]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}:{number}: not JSON: {error.msg}") from error
            yield _object(row, f"{file}:{number}"), f"{file}:{number}"


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: expected an object with named fields, got {type(row).__name__}")
    return row


def _parquet_rows(file: Path) -> Iterator[Record]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.lib.ArrowInvalid as error:
        raise ValueError(f"{file} is not Parquet: {error}") from error
    number = 0
    for batch in table.iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield row, f"{file}:{number}"


def _text_row(file: Path) -> Iterator[Record]:
    yield {"text": file.read_text(encoding="utf-8")}, f"{file}:1"


def _hub_rows(name: str, split: str) -> Iterator[Record]:
    import datasets

    repository, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(repository, configuration or None, split=split, streaming=True)
    except Exception as error:
        raise ValueError(
            f"cannot load {name!r} (split {split!r}) from the hub, and no file of that name exists: {error}"
        ) from error
    return ((dict(row), f"{name}[{split}]:{number}") for number, row in enumerate(rows, 1))


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".json": _json_rows,
    ".jsonl": _json_line_rows,
    ".parquet": _parquet_rows,
    ".raw": _text_row,
    ".tokens": _text_row,
    ".txt": _text_row,
}
