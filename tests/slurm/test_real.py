"""The real path under SLURM: two nodes, gloo, a real model; whatever befalls it, the losses stay the same."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from slurm.submission import submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

STORY = "Once upon a time there was a girl named Lily. She loved to play in the park with her big red ball. "
ONE = {"cpus_per_task": 1, "memory": "4G", "time": "10:00"}
CONFIG = {
    "seed_everything": 1,
    "model": {"learning_rate": 1e-3, "warmup_steps": 2, "lora": {"r": 4, "alpha": 8, "dropout": 0.1}},
    "pruner": {
        "budget": {"ratio": 0.25},
        "protect_first": 1,
        "protect_last": 0,
        "criterion": "taylor_first",
        "compensation": None,
        "calibration": {"num_samples": 4, "seq_len": 32},
    },
    "data": {"template": "{instruction}{response}", "max_length": 64, "batch_size": 2, "num_workers": 0},
    "evaluation": {"seq_len": 64, "speed": False, "prompts": ["Once upon a time"], "max_new_tokens": 8},
    "checkpointing": {"every_steps": 10},
    "trainer": {"accelerator": "cpu", "max_steps": 60, "log_every_n_steps": 1, "strategy": "ddp"},
    "slurm": {"prune": ONE, "recover": {**ONE, "nodes": 2}, "report": ONE, "preflight": True},
}


@pytest.fixture(scope="module")
def real(data, tmp_path_factory):
    """Submits a run of the real command; returns its folder and its jobs by stage."""
    texts = tmp_path_factory.mktemp("texts")
    rows = [{"text": STORY * 3, "instruction": STORY, "output": f"{STORY} She was {i}."} for i in range(400)]
    (texts / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (texts / "held_out.txt").write_text("Tom had a dog. The dog liked to run and jump. " * 30)
    (texts / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    words = [
        f"--config={texts / 'config.yaml'}",
        f"--model.model_name_or_path={data / 'stories260K'}",
        f"--pruner.calibration.path={texts / 'rows.jsonl'}",
        f"--data.path={texts / 'rows.jsonl'}",
        f"--data.cache_dir={texts / 'cache'}",
        f"--evaluation.texts=[{texts / 'held_out.txt'}]",
    ]

    def start(name, *overrides, **options):
        run = texts / name
        jobs = submit([*words, f"--run_dir={run}", *overrides], **options)
        return run, {job.stage: job.job for job in jobs}

    return start


@pytest.fixture(scope="module")
def undisturbed(running_cluster, real):
    """The losses of a run that nothing befell."""
    run, jobs = real("undisturbed")
    assert running_cluster.wait(jobs["report"], timeout=400) == "COMPLETED", logs(run)
    return losses(run)


def losses(run: Path) -> dict[int, str]:
    """Step -> training loss, over all attempts; a step that was done again must give the same."""
    found: dict[int, str] = {}
    for file in sorted(run.rglob("logs/**/metrics.csv"), key=lambda file: file.stat().st_mtime):
        for row in csv.DictReader(file.open(newline="")):
            if row.get("loss"):
                assert found.setdefault(int(row["step"]), row["loss"]) == row["loss"], row
    return found


def logs(run: Path) -> str:
    return "".join(file.read_text()[-3000:] for file in sorted((run / "jobs").glob("*.log")))


def reached(run: Path, step: int) -> bool:
    return any((run / "checkpoints").glob(f"step-*{step}"))


def test_a_signal_changes_no_loss(cluster, real, undisturbed):
    run, jobs = real("signal")
    cluster.until(lambda: reached(run, 10), "a checkpoint", timeout=200)
    cluster.signal(jobs["recover"], "USR1")
    assert cluster.wait(jobs["report"], timeout=400) == "COMPLETED", logs(run)
    found = losses(run)
    assert len(undisturbed.keys() - found.keys()) <= 1  # Lightning does not log the step it is stopped at
    assert found == {step: undisturbed[step] for step in found}
    assert cluster.field(jobs["recover"], "Restarts") == "1"
