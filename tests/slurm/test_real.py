"""The real path under SLURM: two nodes, gloo, a real model; whatever befalls it, the losses stay the same."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from pruner.evaluation.metrics import read_metrics
from pruner.run_folder import RunFolder
from slurm.attempts import read_attempts
from slurm.folder import JobFolder
from slurm.submission import submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

STORY = "Once upon a time there was a girl named Lily. She loved to play in the park with her big red ball. "
STEPS, EVERY = 40, 10
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
    "checkpointing": {"every_steps": EVERY},
    "trainer": {
        "accelerator": "cpu",
        "max_steps": STEPS,
        "accumulate_grad_batches": 1,
        "log_every_n_steps": 1,
        "strategy": "deepspeed_stage_2",
    },
    "slurm": {"prune": ONE, "recover": {**ONE, "nodes": 2}, "report": ONE, "preflight": False},
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
    """A ZeRO-2 run over two nodes that nothing befell: its folder."""
    run, jobs = real("undisturbed")
    assert running_cluster.wait(jobs["recover"], timeout=400) == "COMPLETED", logs(run)
    assert list(losses(run)) == list(range(STEPS))
    return run


@pytest.fixture
def pruned(cluster, real, undisturbed):
    """Submits a run that is pruned as the undisturbed one was."""

    def start(name, *overrides):
        there, run = RunFolder(undisturbed), RunFolder(undisturbed.with_name(name))
        shutil.copytree(there.pruned, run.pruned)
        for file in ("plan", "config"):
            shutil.copy(getattr(there, file), getattr(run, file))
        return real(name, *overrides)

    return start


def losses(run: Path) -> dict[int, str]:
    """Step -> training loss, over all attempts; a step that was done again must give the same."""
    found: dict[int, str] = {}
    for file in sorted(run.rglob("logs/**/metrics.csv"), key=lambda file: file.stat().st_mtime):
        for row in csv.DictReader(file.open(newline="")):
            if row.get("loss"):
                assert found.setdefault(int(row["step"]), row["loss"]) == row["loss"], row
    return found


def unchanged(run: Path, undisturbed: Path, first: int) -> bool:
    """Whether the losses are the undisturbed run's, and all are there from step `first` on.

    Lightning does not log the step at which it is stopped.
    """
    found, expected = losses(run), losses(undisturbed)
    missing = [step for step in expected if step >= first and step not in found]
    return len(missing) <= 1 and found == {step: expected[step] for step in found}


def logs(run: Path) -> str:
    return "".join(file.read_text()[-3000:] for file in sorted((run / "jobs").glob("*.log")))


def reached(run: Path, step: int) -> bool:
    return any((run / "checkpoints").glob(f"step-*{step}"))


def recovering(cluster, run):
    """Wait until the recovery has a checkpoint, and is far from its end."""
    cluster.until(lambda: reached(run, EVERY), "a checkpoint", timeout=200)
    assert not reached(run, STEPS)


def test_a_signal_changes_no_loss_and_ddp_gives_the_losses_of_zero_2(cluster, pruned, undisturbed):
    run, jobs = pruned("signal", "--trainer.strategy=ddp")
    recovering(cluster, run)
    cluster.signal(jobs["recover"], "USR1")
    assert cluster.wait(jobs["recover"], timeout=300) == "COMPLETED", logs(run)
    assert unchanged(run, undisturbed, first=0)
    assert cluster.field(jobs["recover"], "Restarts") == "1"


def test_preemption_changes_no_loss_under_zero_2(cluster, pruned, undisturbed):
    run, jobs = pruned("preempted")
    recovering(cluster, run)
    cluster.preempt(2)
    assert cluster.wait(jobs["recover"], timeout=300) == "COMPLETED", logs(run)
    assert unchanged(run, undisturbed, first=0)
    assert cluster.field(jobs["recover"], "Restarts") == "1"


def test_a_crashed_node_changes_no_loss_from_the_last_checkpoint_on_under_zero_2(
    cluster, pruned, undisturbed
):
    run, jobs = pruned("crashed")
    recovering(cluster, run)
    cluster.do("kill-node", cluster.other_node(jobs["recover"]))
    assert cluster.wait(jobs["recover"], timeout=300) == "COMPLETED", logs(run)
    resumed = read_attempts(JobFolder(run).attempts)[-1].before.step
    assert EVERY <= resumed < STEPS
    assert unchanged(run, undisturbed, first=resumed)


@pytest.mark.parametrize(
    "poison, said",
    [
        (["--data.path=gone.jsonl"], "gone.jsonl"),
        (["--model.learning_rate=1e30", "--model.max_skipped_steps=3"], "steps in a row had a non-finite"),
    ],
)
def test_a_poisoned_run_ends_within_one_retry_and_takes_its_dependents_along(cluster, real, poison, said):
    run, jobs = real(said.replace(" ", "-"), *poison)
    assert cluster.wait(jobs["recover"], timeout=300) in ("FAILED", "CANCELLED")
    assert cluster.wait(jobs["report"]) == "CANCELLED"
    failed = [each for each in read_attempts(JobFolder(run).attempts) if each.status]
    assert len(failed) == 2
    assert said in logs(run)


def test_a_sweep_ends_in_one_report_of_all_its_points(cluster, real):
    root = real("sweep", "--slurm.recover.nodes=1", sweep=["pruner.budget.ratio=0.1,0.3"])[0]
    ids = JobFolder(root).read_ids()
    assert cluster.wait(ids["sweep"]["job"], timeout=500) == "COMPLETED", logs(root)
    found = read_metrics(RunFolder(root).metrics)
    points = [f"ratio={ratio} {model}" for ratio in (0.1, 0.3) for model in ("pruned", "recovered")]
    assert list(found) == ["dense", *points]
    sizes = [found[name]["size"]["parameters"] for name in ("dense", *points[::2])]
    assert sizes == sorted(set(sizes), reverse=True)
    page = RunFolder(root).report.read_text()
    assert all(f"<th>{name}</th>" in page for name in found)
    assert page.count("<polyline") == 2  # perplexity over parameters, before and after recovery
