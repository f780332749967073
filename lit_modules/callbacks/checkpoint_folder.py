"""Checkpoint folders: complete or absent, vouched for by a manifest, found by looking."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "state.ckpt"
SIDE = ".tmp"


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of optimizer step `step` lies."""
    return folder / f"step-{step:08d}"


Files = dict[str, dict[str, Any]]
Gather = Callable[[Any], list[Any]]
"""One value from every rank -> all of them, on every rank."""


def sealed(files: Iterable[Path], side: Path) -> Files:
    """Flush files to disk; their names within `side`, sizes and hashes, for the manifest."""
    record = {}
    for file in files:
        _flush(file)
        name = str(file.relative_to(side))
        record[name] = {"size": file.stat().st_size, "sha256": file_hash(file)}
    return record


def complete(side: Path, record: dict[str, Any], files: Files) -> None:
    """Vouch for `files` in `side` (`X.tmp`), flush, and rename it to `X`."""
    (side / MANIFEST).write_text(json.dumps({**record, "files": files}, indent=1))
    _flush(side / MANIFEST)
    _flush(side)
    final = side.with_suffix("")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(side, final)
    _flush(final.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def newest_first(folder: Path) -> list[Path]:
    """The complete checkpoints under `folder`, the newest first."""
    found = [path for path in folder.glob("step-*") if path.is_dir() and path.suffix != SIDE]
    return sorted(found, key=lambda path: path.name, reverse=True)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """What `complete` recorded; raises ValueError if it is missing or unreadable."""
    try:
        manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text())
        return manifest
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint} has no readable {MANIFEST}: {error}") from error


def alone(value: Any) -> list[Any]:
    """The `Gather` of a single process."""
    return [value]


def flaws(checkpoint: Path, rank: int = 0, world_size: int = 1) -> Iterator[str]:
    """Yield how the files differ from what the manifest vouches for; nothing if they hold.

    Of several ranks each reads its share of the files.
    """
    try:
        files = read_manifest(checkpoint)["files"]
    except (ValueError, KeyError) as error:
        yield str(error)
        return
    present = {str(file.relative_to(checkpoint)) for file in checkpoint.rglob("*") if file.is_file()}
    for name in sorted(present - set(files) - {MANIFEST}):
        yield f"{name} is not in the manifest"
    for name in sorted(files)[rank::world_size]:
        file, known = checkpoint / name, files[name]
        if not file.is_file():
            yield f"{name} is missing"
        elif file.stat().st_size != known["size"] or file_hash(file) != known["sha256"]:
            yield f"{name} has another content than was written"


def latest_checkpoint(
    folder: Path, rank: int = 0, world_size: int = 1, gather: Gather = alone
) -> Path | None:
    """The state to resume from: the newest checkpoint whose files all hold; None if there is none.

    A damaged one is passed over, and the log says so. All ranks call this, each reads its share of the
    files, and all return the same.

    Raises:
        ValueError: there are checkpoints, and all are damaged; on every rank.
    """
    found: list[str] = gather([path.name for path in newest_first(folder)])[0]
    for name in found:
        wrong = [flaw for each in gather(list(flaws(folder / name, rank, world_size))) for flaw in each]
        if not wrong:
            return folder / name / STATE
        said = "; ".join(sorted(set(wrong))[:3])
        log.warning("%s is damaged (%s); trying the one before", folder / name, said)
    if found:
        raise ValueError(
            f"every checkpoint in {folder} is damaged; remove the folder to start the recovery anew"
        )
    return None


def remove_old(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and whatever was left half-written."""
    for path in [*newest_first(folder)[keep:], *folder.glob(f"*{SIDE}")]:
        shutil.rmtree(path, ignore_errors=True)
