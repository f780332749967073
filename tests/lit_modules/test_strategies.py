"""DeepSpeed on two real processes: the same training as without it, parted over the ranks; honest errors."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
import yaml
from lightning.pytorch.strategies import StrategyRegistry
from safetensors.torch import load_file

from lit_modules.callbacks.checkpoint_folder import newest_first
from lit_modules.deepspeed_config import SAID_BY, reconcile
from lit_modules.strategies import DeepSpeed, register_strategies
from pruner.checkpoint import load_model
from tests.processes import Run, read, recovery

ASKED = {
    "gradient_accumulation_steps": 2,
    "train_micro_batch_size_per_gpu": 4,
    "train_batch_size": 16,
    "gradient_clipping": 1.0,
    "bf16": False,
    "fp16": False,
    "optimizer": None,
    "scheduler": None,
    "precision": "32-true",
}
STAGES = (1, 2, 3)


@pytest.mark.parametrize(
    "said",
    [
        {"gradient_accumulation_steps": 4},
        {"train_micro_batch_size_per_gpu": 8},
        {"train_batch_size": 64},
        {"gradient_clipping": 0.1},
        {"bf16": {"enabled": True}},
        {"fp16": {"enabled": True}},
        {"optimizer": {"type": "Adam"}},
        {"scheduler": {"type": "WarmupLR"}},
    ],
)
def test_a_deepspeed_configuration_that_says_otherwise_than_the_run_is_refused(said):
    ((key, value),) = said.items()
    with pytest.raises(ValueError, match="contradicts the run") as error:
        reconcile({"zero_optimization": {"stage": 2}, **said}, ASKED)
    assert key in str(error.value)
    assert repr(value) in str(error.value)
    assert SAID_BY[key] in str(error.value)


def test_what_agrees_or_is_left_open_is_accepted():
    config = {
        "zero_optimization": {"stage": 2},
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": 1.0,
        "fp16": {"enabled": False},
        "bf16": {"enabled": "auto", "check_grad_overflow": True},
    }
    reconcile(config, {**ASKED, "bf16": True, "precision": "bf16-mixed"})
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": True}
    assert config["train_micro_batch_size_per_gpu"] == 4


@pytest.mark.parametrize(
    "zero, message",
    [
        ({"stage": 0}, "must be 1, 2 or 3, got 0"),
        ({}, "must be 1, 2 or 3, got None"),
        ({"stage": 3, "offload_param": {"device": "nvme"}}, "NVMe is not supported"),
    ],
)
def test_what_zero_cannot_do_here_is_refused(zero, message):
    with pytest.raises(ValueError, match=message):
        reconcile({"zero_optimization": zero}, ASKED)


def test_fp16_is_refused():
    with pytest.raises(ValueError, match="bf16-mixed"):
        reconcile({"zero_optimization": {"stage": 2}}, {**ASKED, "precision": "16-mixed"})


def test_lightnings_names_mean_this_strategy():
    register_strategies()
    strategy = StrategyRegistry.get("deepspeed_stage_3_offload")
    assert isinstance(strategy, DeepSpeed)
    zero = strategy.config["zero_optimization"]
    assert zero["stage"] == 3
    assert zero["offload_param"]["device"] == zero["offload_optimizer"]["device"] == "cpu"


@pytest.fixture(scope="module")
def make_run(tmp_path_factory, data):
    """A run of its own folder, sharing texts and cache with the others."""
    folder = tmp_path_factory.mktemp("strategies")

    def make(name, strategy, *, lora=True, dropout=0.1, **trainer):
        model, inputs = data / "stories260K", folder / f"dropout-{dropout}"
        run = Run(folder / name, recovery(inputs, model, strategy, lora=lora, dropout=dropout))
        run.set("trainer", **trainer)
        return run

    return make


@pytest.fixture(scope="module")
def unparted(make_run):
    """The same recovery under plain data parallelism."""
    runs = {}

    def run(lora):
        if lora not in runs:
            runs[lora] = make_run(f"ddp-{lora}", "ddp", lora=lora)
            runs[lora].finish()
        return runs[lora]

    return run


def losses(run):
    """Step -> its mean loss per learned token, over all batches of all ranks."""
    ranks = run.config["trainer"]["devices"]
    batches = [entry for rank in range(ranks) for entry in run.counted(rank)]
    share = ranks * run.config["trainer"]["accumulate_grad_batches"]
    steps = {step for step, _, _ in batches}
    return {step: sum(float.fromhex(loss) for at, _, loss in batches if at == step) / share for step in steps}


def norms(run):
    """Norm of the gradient before clipping, of every step."""
    return [entry["norm"] for entry in read(run.diaries()[0])[1:] if entry["event"] == "batch"][1::2]


def start_of(run):
    return read(run.diaries()[0])[0]


@pytest.mark.distributed
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_what_data_parallelism_does_and_leaves_a_plain_model(
    make_run, unparted, stage, lora
):
    run, reference = make_run(f"zero-{stage}-{lora}", f"deepspeed_stage_{stage}", lora=lora), unparted(lora)
    run.finish()
    assert run.rows_by_step() == reference.rows_by_step()
    assert losses(run) == pytest.approx(losses(reference), rel=2e-3)
    assert norms(run) == pytest.approx(norms(reference), rel=2e-2)
    recovered, expected = (load_model(each.run_dir / "recovered").state_dict() for each in (run, reference))
    pruned = load_model(run.run_dir / "pruned").state_dict()
    for name, value in expected.items():
        moved = (value - pruned[name]).abs().max()
        assert (recovered[name] - value).abs().max() <= 0.05 * moved, name
    check_parted(run, stage, lora=lora)


def check_parted(run, stage, *, lora):
    """No rank holds the whole model under ZeRO-3, and under LoRA no checkpoint a frozen weight."""
    held, whole = start_of(run)["held"], start_of(run)["whole"]
    assert held == whole if stage < 3 else held <= 0.55 * whole
    shards = [load_file(file) for file in newest_first(run.checkpoints)[0].glob("shard-*")]
    trained = start_of(run)["trained"]
    saved = sum(value.numel() for shard in shards for key, value in shard.items() if key[:6] == "weight")
    assert trained <= saved <= 1.1 * trained
    assert len(shards) == 2
    if lora:
        assert trained < 0.2 * whole


@pytest.mark.distributed
def test_a_run_may_change_its_ranks_and_its_stage_and_loses_or_repeats_no_row(make_run):
    whole, run = (make_run(name, "deepspeed_stage_2", dropout=0.0) for name in ("unchanged", "changed"))
    whole.finish()
    interrupt(run, num_batches=4)
    run.set("trainer", devices=1, accumulate_grad_batches=4, strategy="deepspeed_stage_3")
    interrupt(run, num_batches=10, number=signal.SIGTERM)
    run.set("trainer", devices=2, accumulate_grad_batches=2, strategy="deepspeed_stage_1")
    run.finish()
    assert run.rows_by_step() == whole.rows_by_step()
    assert losses(run)[11] == pytest.approx(losses(whole)[11], rel=2e-3)


def interrupt(run, num_batches, number=signal.SIGUSR1):
    """Start, signal rank 0 alone after so many batches, and expect both to save and leave."""
    before = len(run.diaries())
    run.start()
    assert run.until(lambda: batches_since(run, before) >= num_batches), run.said
    os.kill(run.processes[0].pid, number)
    assert set(run.wait()) == {85}, run.said


def batches_since(run, before):
    """How many batches rank 0 has trained in its newest start, if that is a fresh one."""
    files = run.diaries()
    return sum(entry["event"] == "batch" for entry in read(files[-1])) if len(files) > before else 0


@pytest.mark.distributed
@pytest.mark.parametrize("stage", STAGES)
def test_fp32_adapters_on_frozen_bf16_weights_train_as_on_fp32_ones(make_run, unparted, stage):
    run = make_run(f"bf16-{stage}", f"deepspeed_stage_{stage}")
    run.set("model", dtype="bf16")
    run.finish()
    assert losses(run) == pytest.approx(losses(unparted(True)), rel=5e-2)
    adapter = load_file(run.run_dir / "adapter/adapter_model.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    assert {value.dtype for value in load_model(run.run_dir / "recovered").state_dict().values()} == {
        torch.bfloat16
    }


@pytest.mark.distributed
@pytest.mark.parametrize("stage", STAGES)
def test_non_finite_gradients_are_skipped_and_too_many_in_a_row_end_every_rank(make_run, stage):
    run = make_run(f"diverging-{stage}", f"deepspeed_stage_{stage}")
    run.set("model", learning_rate=1e30, max_skipped_steps=3)
    run.start()
    assert set(run.wait()) == {2}, run.said
    text = run.output.read_text()
    assert text.count("skipped: its gradient is not finite") == 6
    assert text.count("3 steps in a row had a non-finite gradient") == 2


@pytest.mark.distributed
def test_where_one_rank_cannot_write_no_rank_waits_for_it_and_the_run_goes_on(make_run):
    run = make_run("full-disk", "deepspeed_stage_2", lora=False, max_epochs=1)
    run.start(file_limit=200_000)
    assert set(run.wait()) == {0}, run.said
    assert "cannot save step 2" in run.output.read_text()
    assert list(run.checkpoints.iterdir()) == []


@pytest.mark.distributed
@pytest.mark.parametrize("stage", [2, 3])
def test_bf16_offloaded_to_the_cpu_resumes_bit_for_bit(make_run, stage):
    strategy = f"deepspeed_stage_{stage}_offload"
    whole, run = (
        make_run(f"{name}-offload-{stage}", strategy, lora=False, precision="bf16-mixed")
        for name in ("whole", "killed")
    )
    whole.finish()
    run.start()
    assert run.until(lambda: batches_since(run, 0) >= 11), run.said
    run.kill()
    run.finish()
    assert [run.counted(rank) for rank in range(2)] == [whole.counted(rank) for rank in range(2)]


@pytest.mark.distributed
@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model.lora.r", 8, "the checkpoint is of another recovery"),
        ("model.weight_decay", 0.5, "the checkpoint is of another recovery"),
        ("data.seed", 5, "the checkpoint was written with other data"),
        ("pruner.budget.ratio", 0.3, "was pruned from other inputs"),
    ],
)
def test_another_runs_checkpoint_ends_every_rank_at_once_and_says_what_differs(
    make_run, path, value, message
):
    mine = make_run(f"mine-{path}", "deepspeed_stage_2")
    interrupt(mine, num_batches=2)
    other = make_run(f"other-{path}", "deepspeed_stage_2")
    claimed = yaml.safe_load((mine.run_dir / "config.yaml").read_text())
    *sections, key = path.split(".")
    for config in (other.config, claimed):
        for section in sections:
            config = config[section]
        config[key] = value
    shutil.copytree(mine.run_dir, other.run_dir)
    (other.run_dir / "config.yaml").write_text(yaml.safe_dump(claimed))
    other.start()
    assert set(other.wait(timeout=120)) == {2}, other.said
    assert other.said.count(message) == 2
    assert re.search(rf"{path.split('.', 1)[1]}: .* -> '?{value}", other.said)


@pytest.mark.distributed
def test_a_contradicting_json_ends_every_rank_at_once(make_run, tmp_path):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 64}))
    run = make_run(
        "contradicting",
        {"class_path": "lit_modules.strategies.DeepSpeed", "init_args": {"config": str(file)}},
    )
    run.start()
    assert set(run.wait(timeout=120)) == {2}
    assert run.said.count("gradient_accumulation_steps: 64, but trainer.accumulate_grad_batches: 2") == 2
    assert not (run.run_dir / "pruned").exists()


@pytest.mark.distributed
def test_a_teacher_is_sharded_with_its_student_and_teaches_the_same_live_or_cached(make_run, data):
    runs = {
        "whole": make_run("teacher-whole", "deepspeed_stage_2", dropout=0.0),
        "sharded": make_run("teacher-sharded", "deepspeed_stage_3", dropout=0.0),
        "cached": make_run("teacher-cached", "deepspeed_stage_2", dropout=0.0),
    }
    for name, run in runs.items():
        run.set("model", distillation={"weight": 1.0, "top_k": 64, "cached": name == "cached"})
        run.finish()
    numel = load_model(data / "stories260K").num_parameters()
    held = [int(each) for each in re.findall(r"is sharded: (\d+) of its weights", runs["sharded"].said)]
    assert len(held) == 2
    assert all(numel / 2 <= each <= 0.55 * numel for each in held)
    expected = losses(runs["whole"])
    assert losses(runs["sharded"]) == pytest.approx(expected, rel=2e-3)
    assert losses(runs["cached"]) == pytest.approx(expected, rel=2e-2)
