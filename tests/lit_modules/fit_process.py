"""One recovery as a process of its own, to be run by several ranks and killed: `fit_process.py SETTINGS`."""

import faulthandler
import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lit_modules.adapters import LoRA
from lit_modules.callbacks.checkpointing import Checkpointing
from lit_modules.callbacks.interruption import EXIT_CODE, Interrupted, Interruption
from lit_modules.instruction_data import InstructionData
from lit_modules.recovery import Recovery
from lit_modules.strategies import register_strategies


class Diary(Callback):
    """Appends the step worked on, rows and exact loss of every batch to a file per start and rank."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def on_train_start(self, trainer, pl_module):
        start = len(list(self.folder.glob(f"rank{trainer.global_rank}-*")))
        self.file = (self.folder / f"rank{trainer.global_rank}-{start:03d}.jsonl").open("a", buffering=1)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        entry = {
            "step": self.step,
            "rows": batch["rows"].tolist(),
            "loss": float(outputs["loss"]).hex(),
        }
        self.file.write(json.dumps(entry) + "\n")


def main(settings):
    faulthandler.enable()  # SIGABRT: every thread says where it is
    torch.set_num_threads(1)
    register_strategies()
    seed_everything(7, verbose=False)
    folder = Path(settings["folder"])
    checkpointing = Checkpointing(folder / "checkpoints", every_steps=settings.get("every_steps", 2))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Diary(folder / "diary"), checkpointing, Interruption(checkpointing)],
        **settings["trainer"],
    )
    lora = LoRA() if settings.get("lora", True) else None
    module = Recovery(settings["model"], lora=lora, learning_rate=1e-2, warmup_steps=2)
    data = InstructionData(model_name_or_path=settings["model"], **settings["data"])
    try:
        trainer.fit(module, data, ckpt_path=checkpointing.resume_from, weights_only=True)
    except Interrupted:
        return EXIT_CODE
    weights = module.trained_weights()
    if trainer.is_global_zero:
        torch.save(weights, folder / "weights.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
