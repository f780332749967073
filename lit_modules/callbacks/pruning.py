"""Pruning before fit: the dense model becomes `pruned/` before any rank builds a module from it."""

import logging
import time

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_modules.together import ending_together
from pruner.pipeline import PruningSettings
from pruner.plan import PruningPlan
from pruner.progress import Track, silent
from pruner.run_folder import RunFolder
from pruner.stages import is_pruned, prune_into, stage_record

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Runs the pruning stage in `setup`, where the processes exist and nothing is built yet.

    Later hooks are too late: optimizers and the DeepSpeed engine would keep the dense parameters.
    All ranks score together, each on its own device and its share of the samples; rank 0 writes the folder.
    """

    def __init__(self, settings: PruningSettings, run: RunFolder, track: Track = silent) -> None:
        self.settings = settings
        self.run = run
        self.track = track

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prune once, then point the module at the pruned folder."""
        if stage != "fit":
            return
        model = pl_module.model_name_or_path
        with ending_together(trainer, "pruning"):
            done = is_pruned(self.run, stage_record(model, self.settings))
        if trainer.strategy.broadcast(done):
            self.say("already complete, used as it is")
        else:
            with ending_together(trainer, "pruning"):
                self.prune(
                    model,
                    trust_remote_code=pl_module.trust_remote_code,
                    device=trainer.strategy.root_device,
                    together=trainer.world_size > 1,
                    track=self.track if trainer.is_global_zero else silent,
                )
        pl_module.pruned_folder = self.run.pruned

    def prune(
        self,
        model_name_or_path: str,
        *,
        trust_remote_code: bool = False,
        device: torch.device | None = None,
        together: bool = False,
        track: Track = silent,
    ) -> None:
        """Run the stage in this process and say in one line what it did and cost."""
        start = time.perf_counter()
        fresh = prune_into(
            self.run,
            model_name_or_path,
            self.settings,
            device=device,
            trust_remote_code=trust_remote_code,
            together=together,
            track=track,
        )
        if not together or torch.distributed.get_rank() == 0:  # which has written the plan by now
            self.say(f"{time.perf_counter() - start:.0f} s" if fresh else "already complete, used as it is")

    def say(self, cost: str) -> None:
        """Log what the stage has reached, by its plan if that is still there."""
        plan = PruningPlan.load(self.run.plan) if self.run.plan.exists() else None
        log.info("pruned into %s%s (%s)", self.run.pruned, reached(plan) if plan else "", cost)


def reached(plan: PruningPlan) -> str:
    """What is left, in words; nothing where a plan made by hand does not say."""
    if not {"parameters", "reached_ratio"} <= plan.budget.keys():
        return ""
    return (
        f": {plan.model['parameters']:,} → {plan.budget['parameters']:,} parameters, "
        f"{plan.budget['reached_ratio']:.2%} of the decoder gone"
    )
