"""Finding and reading the checkpoint to resume from, and fitting Lightning's counters to it."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from torch import Tensor

from lit_modules.callbacks.checkpoint_folder import latest_checkpoint
from lit_modules.callbacks.random_state import random_state
from lit_modules.together import gathered

log = logging.getLogger(__name__)


class CheckpointFolders(TorchCheckpointIO):
    """Lightning's files, opened without running anything that lies in them; knows folders of checkpoints."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a state, or the newest that holds of a folder of checkpoints; adds the `folder` it lies in."""
        state = Path(path)
        if state.is_dir():
            trainer = self.trainer
            newest = latest_checkpoint(
                state, trainer.global_rank, trainer.world_size, lambda value: gathered(trainer, value)
            )
            assert newest is not None, f"{state} was not empty"
            state = newest
        checkpoint = super().load_checkpoint(state, map_location or torch.device("cpu"), weights_only=True)
        return {**checkpoint, "folder": str(state.parent)}


def count_epoch_as_begun(trainer: Trainer) -> None:
    """Let Lightning's counters say that one more epoch has begun than has ended.

    Resumed at an epoch's end it forgets to count the next one, and a second resume adds an epoch.
    """
    progress = trainer.fit_loop.epoch_progress
    for counter in (progress.total, progress.current):
        counter.ready = counter.started = counter.processed + 1


def batch_rows(trainer: Trainer) -> int:
    """Rows that all ranks together take in one batch."""
    share = trainer.datamodule.share
    return int(share.batch_size * share.world_size)


def recount_batches(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Say in batches of this run's size how far the epoch is, where the checkpoint's had another."""
    before, now = checkpoint["batch_rows"], batch_rows(trainer)
    step_before, step_now = before * checkpoint["accumulation"], now * trainer.accumulate_grad_batches
    if step_before != step_now:
        log.warning(
            "an optimizer step had %d rows and has %d from here on; trainer.accumulate_grad_batches keeps "
            "it where the number of ranks changes",
            step_before,
            step_now,
        )
    if before == now:
        return
    current = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    whole_steps = trainer.accumulate_grad_batches * now
    done = current["ready"] * before // whole_steps * trainer.accumulate_grad_batches
    current.update(ready=done, started=done, processed=done, completed=done - 1)


def fresh_random_state(trainer: Trainer, step: int) -> dict[str, Tensor]:
    """For a rank that the checkpoint knows nothing of: seeded by its number and the step."""
    generator = torch.Generator().manual_seed(step * 1_000_003 + trainer.global_rank)
    return {**random_state(), "torch": generator.get_state()}


def random_file(rank: int) -> str:
    """Name of the file with one rank's random state."""
    return f"random-{rank:05d}.safetensors"
