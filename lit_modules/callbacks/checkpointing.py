"""Saving a recovery so that it resumes bit for bit: on step boundaries, atomically, every rank's share."""

import logging
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_modules.callbacks.checkpoint_folder import (
    SIDE,
    STATE,
    Files,
    complete,
    newest_first,
    remove_old,
    sealed,
    step_folder,
)
from lit_modules.callbacks.random_state import random_state, restore_random_state
from lit_modules.callbacks.resuming import (
    CheckpointFolders,
    batch_rows,
    count_epoch_as_begun,
    fresh_random_state,
    random_file,
    recount_batches,
)
from lit_modules.shards import shard_file
from lit_modules.strategies import DeepSpeed
from lit_modules.together import gathered

log = logging.getLogger(__name__)

NOT_WRITTEN = (OSError, RuntimeError, SafetensorError)
"""What a full disk raises, from Python, torch and safetensors."""


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
        self.saved_step: int | None = None
        self._random: dict[str, Tensor] | None = None

    @property
    def resume_from(self) -> Path | None:
        """For `Trainer.fit`: the folder of checkpoints, or None while there is none.

        Which one it is gets decided when all ranks are up, so that they decide together.
        """
        return self.folder if newest_first(self.folder) else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have `resume_from` understood when Lightning comes to load it.

        Raises:
            ValueError: the strategy is Lightning's DeepSpeed, whose checkpoints are pickles.
        """
        strategy = trainer.strategy
        if isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, DeepSpeed):
            raise ValueError(
                f"trainer.strategy {type(strategy).__name__} saves pickles; write deepspeed_stage_1, 2 or 3, "
                "or the class path lit_modules.strategies.DeepSpeed, which takes the same options"
            )
        strategy.checkpoint_io = CheckpointFolders(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read this rank's random state; it is set when the first batch starts, not before."""
        self.saved_step = checkpoint["global_step"]
        file = Path(checkpoint["folder"]) / random_file(trainer.global_rank)
        self._random = load_file(file) if file.exists() else fresh_random_state(trainer, self.saved_step)
        recount_batches(trainer, checkpoint)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note how many rows a batch of all ranks has, for a resume with another number of ranks."""
        checkpoint["batch_rows"] = batch_rows(trainer)
        checkpoint["accumulation"] = trainer.accumulate_grad_batches

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
        """Write the state of the step that just ended, unless it is written; all ranks call this.

        Where any rank cannot write, none counts it as saved: the checkpoint before stays the newest.
        """
        step = trainer.global_step
        if step == self.saved_step:
            return
        start = time.perf_counter()
        side = step_folder(self.folder, step).with_suffix(SIDE)
        if trainer.is_global_zero:
            shutil.rmtree(side, ignore_errors=True)
            with suppress(OSError):  # what is written next will say that it cannot
                side.mkdir(parents=True)
        trainer.strategy.barrier("checkpoint folder")
        outcomes = gathered(trainer, self._written(trainer, side))
        failures = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if not failures and trainer.is_global_zero:
            files = {name: file for outcome in outcomes for name, file in outcome.items()}
            failures = self._completed(side, {"step": step, "world_size": trainer.world_size}, files)
        failures = gathered(trainer, failures)[0]
        if failures:
            self._give_up(trainer, side, failures[0])
            return
        self.saved_step = step
        log.debug("saved step %d in %.2f s", step, time.perf_counter() - start)

    def _written(self, trainer: Trainer, side: Path) -> Files | str:
        """Write what is this rank's; the files, or why it could not."""
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        mine = [side / random_file(trainer.global_rank)]
        try:
            save_file(random_state(), mine[0])
            trainer.strategy.save_checkpoint(checkpoint, side / STATE)
            mine += [side / STATE] if trainer.is_global_zero else []
            shard = shard_file(side, trainer.global_rank)
            mine += [shard] if shard.exists() else []
            return sealed(mine, side)
        except NOT_WRITTEN as error:
            return f"{type(error).__name__}: {error}"

    def _completed(self, side: Path, record: dict[str, Any], files: Files) -> list[str]:
        try:
            complete(side, record, files)
        except OSError as error:
            return [str(error)]
        remove_old(self.folder, self.keep)
        return []

    def _give_up(self, trainer: Trainer, side: Path, failure: str) -> None:
        if trainer.is_global_zero:
            shutil.rmtree(side, ignore_errors=True)
            newest = next((path.name for path in newest_first(self.folder)), "none")
            log.warning(
                "cannot save step %d (%s); the newest checkpoint stays %s",
                trainer.global_step,
                failure,
                newest,
            )
