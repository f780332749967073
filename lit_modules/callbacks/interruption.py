"""USR1 and TERM: remembered at once, agreed on by all ranks at a step's boundary, then saved and left."""

import signal
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_modules.callbacks.checkpointing import Checkpointing, at_step_boundary

EXIT_CODE = 85
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818
    """Training stopped on a signal, its state saved; the process should exit with `EXIT_CODE`."""


class Interruption(Callback):
    """Stops a run so that its next start continues it, whichever rank the signal reached.

    Handlers only raise a flag: a collective call inside one can meet another rank in another call, and
    both wait for ever. They are installed in `on_train_start`, after Lightning's own. It leaves from the
    hook that follows the step, whichever comes, for Lightning logs a step after its last hook.
    """

    def __init__(self, checkpointing: Checkpointing) -> None:
        self.checkpointing = checkpointing
        self.flagged = False
        self._leaving = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers."""
        for each in SIGNALS:
            self._previous[each] = signal.signal(each, self._flag)

    def _flag(self, number: int, frame: FrameType | None) -> None:
        self.flagged = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step: if any rank was signalled, all save, and leave once it is logged."""
        if at_step_boundary(trainer) and trainer.strategy.reduce_boolean_decision(self.flagged, all=False):
            self.checkpointing.save(trainer)
            self._leaving = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave, if that was agreed on."""
        self._leave(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave, if that was agreed on."""
        self._leave(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave, if that was agreed on."""
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        if self._leaving:
            raise Interrupted(
                f"stopped by a signal after step {trainer.global_step}; the newest checkpoint is of step "
                f"{self.checkpointing.saved_step}"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back, before Lightning does."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back, before Lightning does."""
        self._give_back()

    def _give_back(self) -> None:
        for each, previous in self._previous.items():
            signal.signal(each, previous)
        self._previous.clear()
