"""A callback that writes down what a run does, one file per start and rank."""

import json
from pathlib import Path

from lightning.pytorch import Callback

from lit_modules.trained import global_norm


class Diary(Callback):
    """A line for every batch (step worked on, rows, exact loss), validation and epoch's end."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.norm: float | None = None

    def on_train_start(self, trainer, pl_module):
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"rank{trainer.global_rank}"
        start = len(list(self.folder.glob(f"{name}-*")))
        self.file = (self.folder / f"{name}-{start:03d}.jsonl").open("a", buffering=1)
        parameters = list(pl_module.parameters())
        self.write(
            "start",
            held=sum(getattr(value, "ds_tensor", value).numel() for value in parameters),
            whole=sum(numel(value) for value in parameters),
            trained=sum(numel(value) for value in parameters if value.requires_grad),
        )

    def write(self, event, **values):
        self.file.write(json.dumps({"event": event, **values}) + "\n")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.step = trainer.global_step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norm = float(global_norm(pl_module.parameters()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        engine = getattr(trainer.strategy, "deepspeed_engine", None)
        norm = self.norm if engine is None else engine.get_global_grad_norm()
        self.write(
            "batch",
            step=self.step,
            rows=batch["rows"].tolist(),
            loss=float(outputs["loss"]).hex(),
            norm=None if norm is None else float(norm),
        )

    def on_validation_start(self, trainer, pl_module):
        self.write("validation")

    def on_train_epoch_end(self, trainer, pl_module):
        self.write("epoch end")


def numel(parameter):
    """Of the whole parameter, also where ZeRO-3 has parted it."""
    return getattr(parameter, "ds_numel", parameter.numel())
