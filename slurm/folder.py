"""Where a run keeps what SLURM does with it: job ids, logs, attempts, and the snapshot that its jobs use."""

import contextlib
import getpass
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruner.run_folder import RunFolder, beside, write_text
from slurm.configuration import Arguments

SNAPSHOT = ("cli.py", "pruner", "lit_modules", "slurm")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.tmp")


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The places under a run folder that belong to its jobs."""

    run: Path

    @property
    def root(self) -> Path:
        """All but `jobs.json`."""
        return self.run / "jobs"

    def require(self) -> None:
        """Raise ValueError unless this is the folder of a run, begun or submitted."""
        if not (self.ids.exists() or RunFolder(self.run).config.exists()):
            what = "holds no run" if self.run.is_dir() else "does not exist"
            raise ValueError(
                f"{self.run} {what} (neither config.yaml nor {self.ids.name}); give a run_dir, "
                "or submit one: llm-prune submit --config FILE --run_dir DIR"
            )

    @property
    def ids(self) -> Path:
        """Stage -> job id, and the words that its script was given."""
        return self.run / "jobs.json"

    @property
    def attempts(self) -> Path:
        """One line of JSON for every begin and end of an attempt."""
        return self.root / "attempts.jsonl"

    @property
    def owner(self) -> Path:
        """The id of the job that works on the run, of an array with its task (7_1)."""
        return self.root / "owner"

    @property
    def code(self) -> Path:
        """The code that the jobs run, as it was at submission."""
        return self.root / "code"

    def script(self, stage: str) -> Path:
        """The job script."""
        return self.root / f"{stage}.sbatch"

    def log(self, stage: str, array: bool = False) -> Path:
        """Its output, of all attempts; SLURM puts the job's id for %j, an array's for %A, its task for %a."""
        return self.root / f"{stage}-{'%A_%a' if array else '%j'}.log"

    def read_ids(self) -> dict[str, dict[str, Any]]:
        """Stage -> {"job": id, "words": what its script was given}; empty before the first submission."""
        if not self.ids.exists():
            return {}
        found: dict[str, dict[str, Any]] = json.loads(self.ids.read_text())
        return found

    def write_id(self, stage: str, job: str, words: Sequence[str]) -> None:
        """Remember a stage's job, at once, so that no crash between two submissions forgets it."""
        write_text(
            self.ids, json.dumps(self.read_ids() | {stage: {"job": job, "words": list(words)}}, indent=1)
        )

    def write_snapshot(self, project: Path, arguments: Arguments) -> Arguments:
        """Copy the code and the configuration; returns the arguments that name the copies."""
        side = beside(self.root / "code")
        for name in SNAPSHOT:
            source, target = project / name, side / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=LEFT_OUT)
            else:
                shutil.copy2(source, target)
        shutil.rmtree(self.code, ignore_errors=True)
        os.replace(side, self.code)
        copies = [self.root / f"config-{i}.yaml" for i in range(len(arguments.configs))]
        for source, copy in zip(arguments.configs, copies):
            write_text(copy, source.read_text())
        return Arguments(tuple(copies), arguments.overrides)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against a second submission; raises ValueError naming who holds it."""
        lock = self.root / "lock"
        side = beside(self.root / f"lock.{threading.get_ident()}")
        lock.parent.mkdir(parents=True, exist_ok=True)
        if lock.exists() and is_left_behind(read_owner(lock)):
            lock.unlink(missing_ok=True)
        me = {"user": getpass.getuser(), "host": socket.gethostname(), "pid": os.getpid()}
        side.write_text(json.dumps(me))
        try:
            os.link(side, lock)
        except FileExistsError:
            owner = read_owner(lock)
            who = (
                "{user}, process {pid} on {host}".format_map(owner)
                if owner
                else "another that has just ended"
            )
            raise ValueError(
                f"{self.run} is being submitted by {who}; if that is over, remove {lock}"
            ) from None
        finally:
            side.unlink()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def read_owner(lock: Path) -> dict[str, Any]:
    """Who holds a lock; empty if it has just been given up."""
    try:
        owner: dict[str, Any] = json.loads(lock.read_text())
        return owner
    except FileNotFoundError:
        return {}


def is_left_behind(owner: Mapping[str, Any]) -> bool:
    """Whether a lock's owner was a process of this host that is no more."""
    if owner.get("host") != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
