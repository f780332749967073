"""How far the recovery is: a bar over all optimizer steps on a terminal, a line now and then in a file."""

import logging
import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


class Progress(ProgressBar):
    """Steps done of all steps, time left, and the values that were logged for the bar."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None
        self._last_line = 0.0

    def disable(self) -> None:
        """Show nothing, as Lightning asks of every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where the run continues."""
        self._total = int(trainer.estimated_stepping_batches)
        self._first, self._began = trainer.global_step, time.perf_counter()
        self._last_line = self._began
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                desc="recovering", total=self._total, initial=self._first, unit="step", dynamic_ncols=True
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
        if not self._enabled or trainer.global_step == self._first:
            return
        if self._bar is not None:
            self._bar.set_postfix(self._shown(trainer, pl_module), refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)
        elif time.perf_counter() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.perf_counter()
            self._write_line(trainer, pl_module)

    def _shown(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
        values = self.get_metrics(trainer, pl_module)
        return {name: f"{value:.4g}" for name, value in values.items() if isinstance(value, int | float)}

    def _write_line(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        rate = (self._last_line - self._began) / (step - self._first)
        left = timedelta(seconds=round(rate * (self._total - step)))
        shown = ", ".join(f"{name} {value}" for name, value in self._shown(trainer, pl_module).items())
        log.info("recovering: step %d of %d, %s left, %s", step, self._total, left, shown)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that the pause is one."""
        if self._bar is not None:
            self._bar.set_description("validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to training."""
        if self._bar is not None:
            self._bar.set_description("recovering")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
