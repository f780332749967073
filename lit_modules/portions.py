"""Records that do not fit on disk once tokenised: a portion of them at a time."""

import shutil
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from lightning.pytorch import Trainer

from lit_modules.sources import Source, Tokenising
from lit_modules.together import ending_together, gathered
from pruner.records import Record


class Portions:
    """A stream of records, tokenised `size` at a time.

    Of its portions two are on disk: the first, which holds what is held out, and the one in use. A portion
    is a cache like any other, so within it samples are shuffled, packed and resumed as ever.
    """

    def __init__(self, tokenising: Tokenising, source: Source, size: int, run: str) -> None:
        """Take note of what to read.

        Args:
            tokenising: what turns records into examples.
            source: where they come from.
            size: records of a portion.
            run: tells runs that share a cache folder apart: a portion is deleted by the one that made it.
        """
        self.tokenising = tokenising
        self.source = source
        self.size = size
        self.run = run
        self._rows: Iterator[Record] = iter(())
        self._next: int | None = None

    def folder(self, number: int) -> Path:
        """Where a portion lies while it is needed."""
        whole = self.tokenising.folder(self.source)
        return whole.with_name(f"{whole.name}-{self.size}-{self.run}-{number}")

    def ready(self, trainer: Trainer, number: int) -> Path | None:
        """A portion's folder, which one process of every node makes; None where the stream has ended."""
        gathered(trainer, None)  # all have opened the portion before, which may go now
        with ending_together(trainer, f"tokenising portion {number}"):
            if trainer.local_rank == 0:
                self.build(number)
        folder = self.folder(number)
        return folder if folder.is_dir() else None

    def build(self, number: int) -> None:
        """Tokenise a portion and drop all but the first; nothing is made where the stream has ended.

        Raises:
            ValueError: as `Tokenising.build`.
        """
        first, folder = self.folder(0), self.folder(number)
        for other in first.parent.glob(f"{first.name[:-1]}*"):
            if other not in (first, folder):
                shutil.rmtree(other, ignore_errors=True)
        if folder.is_dir():
            return
        if self._next != number:
            records = self.source.records(self.tokenising.cache_dir)
            self._rows = islice(records, number * self.size, None)
        rows, self._next = islice(self._rows, self.size), number + 1
        begun = list(islice(rows, 1))
        if begun or number == 0:
            self.tokenising.build(self.source, folder, chain(begun, rows))


def check_end(trainer: Trainer) -> None:
    """Let every epoch be a portion, and raise ValueError where nothing says when to end."""
    if trainer.max_steps < 0 or trainer.max_epochs not in (None, -1):
        raise ValueError(
            "data.portion_size reads a stream, whose epochs are of no known length: set trainer.max_steps, "
            "and leave trainer.max_epochs out"
        )
    trainer.reload_dataloaders_every_n_epochs = 1
