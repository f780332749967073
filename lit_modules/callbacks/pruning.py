"""Pruning before fit: the dense model becomes `pruned/` before any rank builds a module from it."""

import logging
import time

from lightning.pytorch import Callback, LightningModule, Trainer

from pruner.pipeline import PruningSettings
from pruner.progress import Track, silent
from pruner.run_folder import RunFolder
from pruner.stages import prune_into

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Runs the pruning stage in `setup`, where the processes exist and nothing is built yet.

    Later hooks are too late: optimizers and the DeepSpeed engine would keep the dense parameters.
    Rank 0 prunes into the run folder; the others wait, and fail with it if it fails.
    """

    def __init__(self, settings: PruningSettings, run: RunFolder, track: Track = silent) -> None:
        self.settings = settings
        self.run = run
        self.track = track

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prune once, then point the module at the pruned folder."""
        if stage != "fit":
            return
        failure = None
        if trainer.is_global_zero:
            try:
                self.prune(pl_module.model_name_or_path, trust_remote_code=pl_module.trust_remote_code)
            except Exception as error:
                failure = error
        message = trainer.strategy.broadcast(repr(failure) if failure else None)
        if failure:
            raise failure
        if message:
            raise ValueError(f"pruning failed on rank 0: {message}")
        pl_module.pruned_folder = self.run.pruned

    def prune(self, model_name_or_path: str, *, trust_remote_code: bool = False) -> None:
        """Run the stage in this process and say in one line what it did and cost."""
        start = time.perf_counter()
        fresh = prune_into(
            self.run, model_name_or_path, self.settings, trust_remote_code=trust_remote_code, track=self.track
        )
        cost = f"{time.perf_counter() - start:.0f} s" if fresh else "already complete, used as it is"
        log.info("pruned into %s (%s)", self.run.pruned, cost)
