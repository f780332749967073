"""Saving a recovery so that it resumes bit for bit: on step boundaries, atomically, every rank's share."""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_modules.callbacks.checkpoint_folder import (
    SIDE,
    STATE,
    complete,
    latest_checkpoint,
    remove_old,
    step_folder,
)
from lit_modules.callbacks.random_state import random_state, restore_random_state

__all__ = ["Checkpointing", "at_step_boundary", "latest_checkpoint"]

log = logging.getLogger(__name__)


def at_step_boundary(trainer: Trainer) -> bool:
    """Whether the batch that just ended completed an optimizer step."""
    return not trainer.fit_loop._should_accumulate()


class Checkpointing(Callback):
    """Writes `checkpoints/step-00000100/` every so many optimizer steps and keeps the newest few."""

    def __init__(self, folder: Path, every_steps: int = 100, keep: int = 2) -> None:
        """Choose how often and how many.

        Args:
            folder: the run's checkpoints.
            every_steps: optimizer steps from one to the next.
            keep: how many of the newest stay.
        """
        if every_steps < 1 or keep < 2:
            raise ValueError(
                "checkpoints need every_steps >= 1 and keep >= 2 (one may be damaged), "
                f"got {every_steps} and {keep}"
            )
        self.folder = folder
        self.every_steps = every_steps
        self.keep = keep
        self._saved_step: int | None = None
        self._random: dict[str, Tensor] | None = None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read this rank's random state; it is set when the first batch starts, not before."""
        self._saved_step = checkpoint["global_step"]
        file = Path(str(trainer.ckpt_path)).parent / random_file(trainer.global_rank)
        self._random = load_file(file) if file.exists() else fresh_random_state(trainer, self._saved_step)
        recount_batches(trainer, checkpoint)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note how many rows a batch of all ranks has, for a resume with another number of ranks."""
        checkpoint["batch_rows"] = batch_rows(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore the random state that a resumed run left off with."""
        if self._random is not None:
            restore_random_state(self._random)
            self._random = None
            count_epoch_as_begun(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if this step is due."""
        if at_step_boundary(trainer) and trainer.global_step % self.every_steps == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step, so that nothing is replayed should the export be stopped."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the state of the step that just ended, unless it is written; all ranks call this."""
        step = trainer.global_step
        if step == self._saved_step:
            return
        start = time.perf_counter()
        final = step_folder(self.folder, step)
        side = final.with_name(final.name + SIDE)
        if trainer.is_global_zero:
            shutil.rmtree(side, ignore_errors=True)
            side.mkdir(parents=True)
        trainer.strategy.barrier("checkpoint folder")
        trainer.save_checkpoint(side / STATE)
        save_file(random_state(), side / random_file(trainer.global_rank))
        trainer.strategy.barrier("checkpoint written")
        if trainer.is_global_zero:
            complete(side, {"step": step, "world_size": trainer.world_size})
            remove_old(self.folder, self.keep)
        trainer.strategy.barrier("checkpoint complete")
        self._saved_step = step
        log.debug("saved step %d in %.2f s", step, time.perf_counter() - start)


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
