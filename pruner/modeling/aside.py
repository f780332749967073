"""Folders that are there whole or not at all: written to the side, then renamed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_replaceable(folder: Path) -> None:
    """Raise ValueError if `folder` is there and is no model folder, so that nothing else is lost."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds files but no model; choose a new folder, or an empty one")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a model is saved as a folder")


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when all is written, and vanishes on an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as workplace:
        side, before = Path(workplace) / "new", Path(workplace) / "old"
        side.mkdir()
        yield side
        if folder.exists():
            os.replace(folder, before)
        os.replace(side, folder)
