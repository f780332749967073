"""Where a run keeps what, and which of it is complete: a `DONE` file, written last, says so."""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "DONE"
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The places inside `runs/<name>/`."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.yaml"

    @property
    def plan(self) -> Path:
        """What was removed, and why."""
        return self.root / "plan.json"

    @property
    def pruned(self) -> Path:
        """The pruned model."""
        return self.root / "pruned"

    @property
    def adapter(self) -> Path:
        """The PEFT adapter, after LoRA."""
        return self.root / "adapter"

    @property
    def recovered(self) -> Path:
        """The recovered, merged model."""
        return self.root / "recovered"

    @property
    def checkpoints(self) -> Path:
        """Training state, one folder per saved step."""
        return self.root / "checkpoints"

    @property
    def logs(self) -> Path:
        """CSV and TensorBoard logs."""
        return self.root / "logs"

    @property
    def metrics(self) -> Path:
        """Every figure of the report."""
        return self.root / "metrics.json"

    @property
    def report(self) -> Path:
        """Plots and the table before/after."""
        return self.root / "report.html"

    @property
    def is_begun(self) -> bool:
        """Whether anything was made here; a configuration, logs and SLURM's jobs alone are no beginning."""
        models = (self.pruned, self.adapter, self.recovered)
        made = (self.plan, *models, self.checkpoints, self.metrics, self.report)
        return any(place.exists() for place in made)

    def claim(self, config: str, settled: Mapping[str, Any], found: Mapping[str, Any] | None) -> None:
        """Make this folder the run of `config`, or refuse it as the run of another configuration.

        A run that failed before it made anything leaves its configuration, which a corrected one replaces.
        All ranks of a run claim the folder, before any of them makes something: they write the same text.

        Args:
            config: the resolved configuration as YAML; written if the folder has none yet, or holds another
                of which nothing was made.
            settled: the part of it that must not change between starts of one run.
            found: the same part of the configuration that lies in the folder, None if none does.

        Raises:
            ValueError: naming each value that differs; nothing was written.
        """
        differing = list(differences(found, settled))
        if not differing:
            return
        if not self.is_begun:
            write_text(self.config, config)
            return
        if found is None:
            raise ValueError(f"{self.root} holds a run without config.yaml; choose another run_dir")
        listed = "\n  ".join(differing[:10])
        raise ValueError(
            f"{self.root} belongs to a run of another configuration (there -> here):\n  {listed}\n"
            "Choose another run_dir, or take these values back."
        )


def write_text(path: Path, text: str) -> None:
    """Write `text` to the side, then rename, so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    side = beside(path)
    side.write_text(text)
    os.replace(side, path)


def beside(path: Path) -> Path:
    """Where this process prepares `path`, next to it; other processes, and other nodes, do so elsewhere."""
    return path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def mark_done(folder: Path, record: Mapping[str, Any]) -> None:
    """Declare `folder` complete; `record` says what it was made from."""
    write_text(folder / MARK, json.dumps(record, indent=1, sort_keys=True, default=str) + "\n")


def done_record(folder: Path) -> dict[str, Any] | None:
    """What `mark_done` wrote into `folder`, or None while it is incomplete or absent."""
    try:
        record: dict[str, Any] = json.loads((folder / MARK).read_text())
        return record
    except FileNotFoundError:
        return None


def differences(left: Any, right: Any, at: str = "") -> Iterator[str]:
    """Yield "path: left -> right" for every leaf in which two nested values differ."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in sorted({*left, *right}, key=str):
            yield from differences(left.get(key), right.get(key), f"{at}.{key}" if at else str(key))
    elif left != right:
        yield f"{at}: {left!r} -> {right!r}"


def filled(older: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What an older release wrote, with the defaults of what only a newer one asks."""
    whole = {**defaults, **older}
    return {
        key: filled(value, defaults[key])
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping)
        else value
        for key, value in whole.items()
    }


def content_identity(name_or_path: str) -> str:
    """A short digest of a model or data file's content; of the name alone where it is no local path.

    Of weights the size and both ends are read, not the gigabytes between.
    """
    path = Path(name_or_path)
    digest = hashlib.sha256(name_or_path.encode() if not path.exists() else b"")
    files = sorted(path.glob("*")) if path.is_dir() else [path] if path.is_file() else []
    for file in files:
        if file.is_file() and file.name not in (MARK, CARD):
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 16))
                stream.seek(max(0, file.stat().st_size - (1 << 16)))
                digest.update(stream.read())
    return digest.hexdigest()[:16]
