"""A real tiny model with its tokenizer, a few records, and fits on them that take a second."""

import contextlib
import json

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lit_modules.callbacks.checkpointing import Checkpointing
from lit_modules.instruction_data import InstructionData
from lit_modules.recovery import Recovery
from pruner.checkpoint import load_model, load_tokenizer, save_model
from pruner.discovery import discover
from pruner.run_folder import RunFolder, mark_done
from pruner.surgery import remove
from tests.real_data import STORIES

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stories():
    """The folder of a trained Llama of 260 thousand parameters."""
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is missing; LLM_PRUNE_TEST_DATA names the folder of real data")
    return str(STORIES)


@pytest.fixture(scope="session")
def pruned_run(stories, tmp_path_factory):
    """A run that has pruned, per layer, and not yet recovered; not to be changed."""
    run = RunFolder(tmp_path_factory.mktemp("pruned") / "run")
    model = load_model(stories)
    groups = [group for group in discover(model).groups if group.kind == "mlp" and group.layer in (1, 2)]
    remove(model, groups, {group.name: range(group.num_units // 2) for group in groups})
    save_model(model, load_tokenizer(stories), run.pruned)
    mark_done(run.pruned, {"model": "stories"})
    run.config.write_text(f"model: {{model_name_or_path: {stories}}}\n")
    return run


@pytest.fixture
def tokenizer(stories):
    return load_tokenizer(stories)


@pytest.fixture(scope="session")
def records_file(tmp_path_factory):
    """Forty records of several lengths, a third of them with an input."""
    file = tmp_path_factory.mktemp("records") / "records.jsonl"
    rows = [
        {
            "instruction": f"Tell story {number} " + "of a cat " * (number % 4),
            "input": f"The cat is {number} years old." if number % 3 == 0 else "",
            "output": f"Once upon a time there were {number} cats. " * (1 + number % 5),
        }
        for number in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def make_data(stories, records_file, tmp_path):
    def make(path=None, **settings):
        defaults = {
            "template": "Q: {instruction} {input}\nA: {response}",
            "max_length": 128,
            "batch_size": 2,
            "validation_share": 0.2,
            "num_workers": 0,
            "cache_dir": str(tmp_path / "cache"),
        }
        return InstructionData(path or records_file, stories, **{**defaults, **settings})

    return make


class Recorder(Callback):
    """Keeps step, rows and loss of every batch; raises before batch `stop_at` as a crash would."""

    def __init__(self, stop_at=None):
        self.seen = []
        self.stop_at = stop_at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.stop_at is not None and len(self.seen) == self.stop_at:
            raise CrashError

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((trainer.global_step, batch["rows"].tolist(), outputs["loss"].item()))


class CrashError(Exception):
    pass


@pytest.fixture
def fit(stories, make_data, tmp_path):
    """Fit with accumulation 2, dropout and a validation in mid-epoch; returns module and recorder."""

    def run(
        folder="run",
        stop_at=None,
        ckpt_path=None,
        callbacks=(),
        data=None,
        module=None,
        every_steps=2,
        **settings,
    ):
        seed_everything(7, verbose=False)
        recorder = Recorder(stop_at)
        checkpointing = Checkpointing(tmp_path / folder / "checkpoints", every_steps=every_steps)
        extra = [make(checkpointing) if callable(make) else make for make in callbacks]
        defaults = {
            "max_epochs": 2,
            "accumulate_grad_batches": 2,
            "val_check_interval": 4,
            "enable_progress_bar": False,
            "logger": False,
        }
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[recorder, checkpointing, *extra],
            **{**defaults, **settings},
        )
        module = module or Recovery(stories, learning_rate=1e-2, warmup_steps=2)
        with contextlib.suppress(CrashError):
            trainer.fit(module, data or make_data(), ckpt_path=ckpt_path, weights_only=True)
        return module, recorder.seen

    return run
