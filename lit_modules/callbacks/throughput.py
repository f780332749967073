"""What training achieves: tokens per second, share of the peak, waiting for data, memory, time left."""

import resource
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_modules.callbacks.checkpointing import at_step_boundary
from lit_modules.flops import peak_flops, training_flops


class Throughput(Callback):
    """Logs, once every `trainer.log_every_n_steps` optimizer steps, over the time since the last.

    `tokens_per_second` counts tokens of examples, `padded_per_second` all that the model processed; both
    over all ranks, without validation and checkpoints. `data_wait` is the share of time that no batch was
    ready, `memory_gb` this rank's peak (of the GPU, or resident on a CPU), `hours_left` what the run still
    takes at this rate. `mfu`, the share of the GPUs' peak that processed tokens account for (`flops`), is
    logged where that peak is known, or given.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        """Choose what `mfu` is a share of.

        Args:
            peak_tflops: of each rank's processor, in 10¹² operations per second; None: by the GPU's name.
        """
        self.peak_tflops = peak_tflops

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        device = trainer.strategy.root_device
        self._peak = self.peak_tflops * 1e12 if self.peak_tflops else peak_flops(device)
        recomputed = bool(getattr(pl_module, "gradient_checkpointing", False))
        self._flops = training_flops(pl_module.model, recomputed=recomputed)
        self._reset()

    def _reset(self) -> None:
        self._tokens = self._padded = self._steps = 0
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
        if not at_step_boundary(trainer):
            return
        self._steps += 1
        if trainer.global_step % trainer.log_every_n_steps == 0:
            values = self._values(trainer)
            pl_module.log_dict(values, prog_bar=False)
            shown = {"tokens_per_second": "tokens/s", "data_wait": "wait", "mfu": "MFU"}
            on_bar = {shown[name]: value for name, value in values.items() if name in shown}
            pl_module.log_dict(on_bar, prog_bar=True, logger=False)
            self._reset()

    def _values(self, trainer: Trainer) -> dict[str, float]:
        waited = (self._waited_before or 0.0) - self._waited_at_start
        steps_left = int(trainer.estimated_stepping_batches) - trainer.global_step
        values = {
            "tokens_per_second": self._tokens / self._busy,
            "padded_per_second": self._padded / self._busy,
            "data_wait": waited / self._busy,
            "memory_gb": peak_memory_gb(),
            "hours_left": steps_left * self._busy / self._steps / 3600,
        }
        if self._peak:
            reached = values["padded_per_second"] * self._flops
            values["mfu"] = reached / (trainer.world_size * self._peak)
        return values


def peak_memory_gb() -> float:
    """Peak memory of this process: allocated on the GPU if there is one, else resident, in 10⁹ bytes."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
