"""Real `llm-prune fit` processes, two ranks of them, that tests can watch, signal and kill.

They are forked from a server that has imported everything, which saves ten seconds of imports each; from
there on each is a process like any other, with its own arguments, environment and output.
"""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["lit_modules.command", "deepspeed", "peft", "tests.diary", "scipy.optimize"])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fit(args, output, environment, file_limit):
    """What the console script `llm-prune` does, in a session of its own; no file grows beyond the limit."""
    os.setsid()
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    multiprocessing.set_start_method("fork", force=True)  # this platform's own, for the loader's workers
    os.environ |= environment
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.argv = ["llm-prune", "fit", *args]
    import torch

    import cli

    torch.set_num_threads(1)
    sys.exit(cli.main(sys.argv[1:]))


class Run:
    """A run folder, and the processes that work on it."""

    def __init__(self, folder, config):
        folder.mkdir()
        self.folder = folder
        self.run_dir = folder / "run"
        self.config = config
        self.processes = []

    def set(self, section, **values):
        self.config[section] = {**self.config[section], **values}

    def start(self, file_limit=None):
        """Start as many ranks as `trainer.devices` says; the last has a disk that is soon full."""
        diary = {"class_path": "tests.diary.Diary", "init_args": {"folder": str(self.folder / "diary")}}
        file = self.folder / "config.yaml"
        trainer = {**self.config["trainer"], "callbacks": [diary]}
        file.write_text(yaml.safe_dump({**self.config, "trainer": trainer, "run_dir": str(self.run_dir)}))
        port, ranks = free_port(), self.config["trainer"]["devices"]
        self.processes = []
        for rank in range(ranks):
            environment = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(ranks),
                "NODE_RANK": "0",
                "LOCAL_RANK": str(rank),
            }
            limit = file_limit if rank == ranks - 1 else None
            args = ([f"--config={file}"], str(self.output), environment, limit)
            process = FORKS.Process(target=fit, args=args)
            process.start()
            self.processes.append(process)

    @property
    def output(self):
        return self.folder / "output.txt"

    @property
    def checkpoints(self):
        return self.run_dir / "checkpoints"

    @property
    def said(self):
        return self.output.read_text()[-3000:] if self.output.exists() else ""

    @property
    def alive(self):
        return all(process.exitcode is None for process in self.processes)

    def wait(self, timeout=240):
        """The exit codes, once all ranks have ended; whoever takes longer is killed and fails the test."""
        until = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        hung = [process for process in self.processes if process.exitcode is None]
        self.kill()
        assert not hung, f"{len(hung)} ranks hung:\n{self.said}"
        return [process.exitcode for process in self.processes]

    def kill(self):
        """SIGKILL to every rank and its workers, at once, as a node that goes down does."""
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                process.kill()
        for process in self.processes:
            process.join()

    def finish(self):
        """Run to the end."""
        self.start()
        assert set(self.wait()) == {0}, self.said

    def until(self, reached, timeout=240):
        """Wait until `reached()`; False if a rank ended before."""
        end = time.monotonic() + timeout
        while self.alive:
            if reached():
                return True
            assert time.monotonic() < end, f"nothing happened for {timeout} s:\n{self.said}"
            time.sleep(0.001)
        return False

    def diaries(self, rank=0):
        return sorted((self.folder / "diary").glob(f"rank{rank}-*"))

    def counted(self, rank=0):
        """The batches that count: of each start those before the step at which the next one began."""
        kept = []
        for file in self.diaries(rank):
            entries = [entry for entry in read(file) if entry["event"] == "batch"]
            kept = [entry for entry in kept if entries and entry["step"] < entries[0]["step"]] + entries
        return [(entry["step"], entry["rows"], entry["loss"]) for entry in kept]

    def rows_by_step(self, ranks=2):
        """Optimizer step -> the rows that all ranks together took in it."""
        taken = {}
        for rank in range(ranks):
            for step, rows, _ in self.counted(rank):
                taken.setdefault(step, []).extend(rows)
        return {step: sorted(rows) for step, rows in taken.items()}


def read(file):
    """The whole lines of a diary."""
    text = file.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def recovery(folder, model, strategy, *, lora=True, dropout=0.1):
    """A configuration of `llm-prune fit` that takes seconds, with everything on that resume must survive.

    Three epochs of four steps on two ranks; packing, accumulation, workers, dropout, validation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = with_dropout(Path(model), folder / "model", dropout)
    records = folder / "records.jsonl"
    records.write_text("".join(json.dumps(record(number)) + "\n" for number in range(96)))
    return {
        "seed_everything": 7,
        "model": {
            "model_name_or_path": str(model),
            "lora": {"r": 4, "alpha": 8, "dropout": dropout} if lora else None,
            "learning_rate": 1e-2,
            "warmup_steps": 2,
        },
        "pruner": {
            "criterion": "l2",
            "compensation": None,
            "budget": {"ratio": 0.25},
            "protect_first": 1,
            "protect_last": 0,
        },
        "data": {
            "path": str(records),
            "template": "Q: {instruction}\nA: {response}",
            "max_length": 64,
            "batching": "packed",
            "pack_length": 128,
            "batch_size": 2,
            "validation_share": 0.2,
            "num_workers": 1,
            "cache_dir": str(folder / "cache"),
        },
        "evaluation": {"texts": [], "speed": False},
        "checkpointing": {"every_steps": 2},
        "trainer": {
            "accelerator": "cpu",
            "devices": 2,
            "strategy": strategy,
            "max_epochs": 3,
            "accumulate_grad_batches": 2,
            "gradient_clip_val": 1.0,
            "val_check_interval": 4,
            "logger": False,
        },
    }


def with_dropout(model, folder, dropout):
    """A copy of a model folder whose attention has dropout, so that full training draws numbers too."""
    if not folder.exists():
        shutil.copytree(model, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": dropout}))
    return folder


def record(number):
    return {
        "instruction": f"Tell story {number} " + "of a cat " * (number % 4),
        "output": f"Once upon a time there were {number} cats. " * (1 + number % 3),
    }
