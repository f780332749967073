"""After the last step: `adapter/` and `recovered/`, each written to the side, then renamed."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_modules.adapters import with_weights
from lit_modules.recovery import Recovery
from pruner.checkpoint import load_model, load_tokenizer, save_model
from pruner.run_folder import RunFolder, mark_done

log = logging.getLogger(__name__)


class Export(Callback):
    """Merges what was trained into the pruned model, on rank 0, and saves both.

    It starts from the pruned folder and the trained weights alone, so it is the same under any strategy.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the trained weights from all ranks, then write."""
        assert isinstance(pl_module, Recovery)
        weights = pl_module.trained_weights()
        if trainer.is_global_zero:
            write_recovered(pl_module, weights, self.run, trainer.global_step)
        trainer.strategy.barrier("recovered model written")


def write_recovered(recovery: Recovery, weights: dict[str, Tensor], run: RunFolder, step: int) -> None:
    """Write `run.adapter` (under LoRA) and `run.recovered` from the pruned model and trained `weights`."""
    source, trusted = recovery.source
    pruned = load_model(source, dtype=recovery.weights_dtype, trust_remote_code=trusted)
    weights = {name.removeprefix("model."): value for name, value in weights.items()}
    model = with_weights(pruned, recovery.lora, weights)
    record = {"step": step, "source": str(source)}
    if recovery.lora:
        write_folder(run.adapter, record, model.save_pretrained)
        model = model.merge_and_unload()
    tokenizer = load_tokenizer(source, trust_remote_code=trusted)
    write_folder(run.recovered, record, lambda folder: save_model(model, tokenizer, folder))
    log.info("recovered after %d steps: %s", step, run.recovered)


def write_folder(folder: Path, record: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `folder`, mark it done, and rename it."""
    side = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(side, ignore_errors=True)
    write(side)
    mark_done(side, record)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(side, folder)
