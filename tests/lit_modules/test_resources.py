"""What a run will need is foretold from its configuration, and what does not fit is refused."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_modules.adapters import LoRA, add_adapters
from lit_modules.demand import Load, Sharing, hours, memory_per_rank
from lit_modules.flops import training_flops
from lit_modules.objective import only_at
from lit_modules.resources import extent_of, sharing_of
from lit_modules.resources_command import ResourcesCommand
from lit_modules.walk import Keeping, kept_bytes
from pruner.checkpoint import load_config, load_model

LOAD = Load(1000, 100, 2, 4, 5000, 70, 40, 600.0)


def empty(name):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(load_config(name))


@pytest.mark.parametrize("lora", [None, LoRA()])
def test_the_walk_without_data_keeps_what_a_real_pass_keeps(stories, lora):
    def adapted(model):
        return add_adapters(model, lora) if lora else model

    foretold = kept_bytes(adapted(empty(stories).to(torch.float32)), 2, 48)
    model = adapted(load_model(stories, dtype=torch.float32)).train()
    mask, keeping = torch.ones(2, 1, 48, 48, dtype=torch.bool).tril(), Keeping(model)
    with only_at(model.get_output_embeddings(), torch.tensor([0])), keeping:
        ids = torch.zeros(2, 48, dtype=torch.int64)
        keeping.output = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert foretold == keeping.num_bytes > 0


@pytest.mark.parametrize(
    "stage, weights, gradients, optimizer",
    [(0, 2400, 400, 800), (1, 2400, 400, 200), (2, 2400, 100, 200), (3, 600, 100, 200)],
)
def test_each_stage_of_zero_parts_what_it_should(stage, weights, gradients, optimizer):
    needs = memory_per_rank(LOAD, Sharing(4, stage))
    assert (needs["weights"], needs["gradients"], needs["optimizer"]) == (weights, gradients, optimizer)
    assert (needs["activations"], needs["logits"]) == (5000, 840)
    assert needs["teacher"] == (10 if stage == 3 else 40)


def test_training_all_weights_in_bf16_takes_sixteen_bytes_each():
    needs = memory_per_rank(Load(0, 1000, 2, 2, 0, 0, 0, 0.0), Sharing(1, 2))
    assert sum(needs.values()) == 16 * 1000


def test_what_is_offloaded_is_not_on_the_device():
    needs = memory_per_rank(LOAD, Sharing(2, 3, offload_optimizer=True, offload_weights=True))
    assert needs["offloaded"] == (2400 + 800) / 2
    assert "weights" not in needs


def test_time_is_operations_over_what_all_ranks_reach():
    assert hours(3600e6, LOAD, Sharing(4), 1e9, 0.5) == pytest.approx(600 * 1e6 / (4 * 0.5e9))


def test_adapters_spare_the_gradients_of_frozen_matrices(stories):
    model = load_model(stories)
    whole = sum(each.numel() for each in model.parameters() if each.dim() > 1)
    assert training_flops(model) == 6 * whole
    adapted = add_adapters(load_model(stories), LoRA())
    trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    assert training_flops(adapted) == 4 * (whole + trained) + 2 * trained
    assert training_flops(adapted, recomputed=True) == 6 * (whole + trained) + 2 * trained


@pytest.mark.parametrize(
    "strategy, expected",
    [
        ("auto", Sharing(16, 0)),
        ("deepspeed_stage_2", Sharing(16, 2)),
        ("deepspeed_stage_2_offload", Sharing(16, 2, True, False)),
        ("deepspeed_stage_3_offload", Sharing(16, 3, True, True)),
        (
            {
                "class_path": "x",
                "init_args": {"stage": 3, "offload_optimizer": True, "offload_parameters": False},
            },
            Sharing(16, 3, True, False),
        ),
    ],
)
def test_a_strategys_name_says_what_is_parted(strategy, expected):
    trainer = {"devices": 8, "num_nodes": 2, "strategy": strategy, "accelerator": "gpu"}
    assert sharing_of(trainer) == expected


def test_steps_are_those_of_the_run():
    trainer = {"accumulate_grad_batches": 2, "max_steps": -1, "max_epochs": 3}
    data = {"batching": "packed", "pack_length": 1000, "max_length": 500, "batch_size": 5}
    extent = extent_of(data, trainer, Sharing(4), samples=99_000, mean_length=100)
    assert extent.steps == 3 * (10_000 // 40)
    assert extent.samples == pytest.approx(extent.steps * 40 * 9.9)
    assert extent.tokens == extent.steps * 40 * 1000


@pytest.fixture
def asked(stories, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"instruction": "Say once.", "output": "once"}) + "\n")

    def options(*more):
        return [
            f"--run_dir={tmp_path / 'run'}",
            f"--model.model_name_or_path={stories}",
            f"--data.path={rows}",
            "--pruner.protect_first=1",
            "--pruner.protect_last=0",
            "--pruner.budget.ratio=0.1",
            "--trainer.accelerator=cpu",
            "--trainer.max_steps=5",
            *more,
        ]

    return options


def test_a_run_that_fits_is_described_and_nothing_is_made(asked, capsys, tmp_path):
    assert ResourcesCommand(asked("--device=h100"), "resources").estimate() == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("weights", "optimizer steps", "hours"))
    assert not Path(tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (("--device=mine", "--memory_gb=0.01", "--tflops=1"), r"each rank needs .* GB and a mine has 0\.0"),
        (("--device=mine",), "must be one of rtx4090"),
        (("--trainer.accelerator=gpu", "--trainer.devices=auto"), "must be a number"),
        (("--data.path=somebody/data",), "give --samples"),
    ],
)
def test_what_cannot_be_is_refused(asked, options, message):
    with pytest.raises(ValueError, match=message):
        ResourcesCommand(asked(*options), "resources").estimate()
