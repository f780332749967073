"""What training achieves: tokens per second, time spent waiting for data, memory."""

import resource
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_modules.callbacks.checkpointing import at_step_boundary


class Throughput(Callback):
    """Logs, once every `trainer.log_every_n_steps` optimizer steps, over the time since the last.

    `tokens_per_second` counts tokens of examples, `padded_per_second` all that the model processed; both
    over all ranks, without validation and checkpoints. `data_wait` is the share of time that no batch was
    ready, `memory_gb` this rank's peak (of the GPU, or resident on a CPU).
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._reset()

    def _reset(self) -> None:
        self._tokens = self._padded = 0
        self._busy = 0.0
        self._waited_before: float | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock; the wait for this batch counts too."""
        waited = getattr(trainer.train_dataloader, "waited", 0.0)
        if self._waited_before is None:
            self._waited_at_start = self._waited_before = waited
        self._busy += waited - self._waited_before
        self._waited_before = waited
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and log if it is time."""
        self._busy += time.perf_counter() - self._start
        self._tokens += batch["tokens"] * trainer.world_size
        self._padded += batch["input_ids"].numel() * trainer.world_size
        if not at_step_boundary(trainer) or trainer.global_step % trainer.log_every_n_steps:
            return
        waited = (self._waited_before or 0.0) - self._waited_at_start
        values = {
            "tokens_per_second": self._tokens / self._busy,
            "padded_per_second": self._padded / self._busy,
            "data_wait": waited / self._busy,
            "memory_gb": peak_memory_gb(),
        }
        pl_module.log_dict(values, prog_bar=False)
        pl_module.log("tokens/s", values["tokens_per_second"], prog_bar=True, logger=False)
        self._reset()


def peak_memory_gb() -> float:
    """Peak memory of this process: allocated on the GPU if there is one, else resident, in 10⁹ bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
