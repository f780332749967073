"""What a run has made is exported from its folder or from a checkpoint, and equals what was trained."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from lit_modules.adapters import LoRA
from lit_modules.callbacks.checkpoint_folder import newest_first
from lit_modules.callbacks.export import Export
from lit_modules.exporting import export
from lit_modules.recovery import Recovery
from pruner.checkpoint import load_model
from pruner.run_folder import RunFolder
from tests.processes import Run, recovery

IDS = torch.arange(3, 40)[None]


@torch.no_grad()
def logits_of(model):
    return model.eval()(IDS).logits


@pytest.fixture
def recover(pruned_run, fit, stories, tmp_path):
    """Recover a copy of the pruned run for six steps; the run, and the logits of the trained model."""

    def recovered(lora):
        run = RunFolder(tmp_path / "run")
        shutil.copytree(pruned_run.root, run.root, dirs_exist_ok=True)
        module = Recovery(stories, lora=lora, learning_rate=1e-2)
        module.pruned_folder = run.pruned
        fit(module=module, callbacks=[Export(run)], max_steps=6)
        return run, logits_of(module.model)

    return recovered


@pytest.mark.parametrize("lora", [LoRA(), None], ids=["LoRA", "full"])
def test_a_checkpoint_gives_the_model_as_it_was_trained(recover, tmp_path, lora):
    run, expected = recover(lora)
    newest, *_ = newest_first(run.checkpoints)
    export(str(newest), str(tmp_path / "out"))
    torch.testing.assert_close(logits_of(load_model(tmp_path / "out")), expected, rtol=1e-4, atol=1e-4)
    one, other = (load_file(place / "model.safetensors") for place in (tmp_path / "out", run.recovered))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_gives_the_newest_model_it_has_made(recover, tmp_path):
    run, recovered = recover(LoRA())
    export(str(run.root), str(tmp_path / "recovered"))
    torch.testing.assert_close(logits_of(load_model(tmp_path / "recovered")), recovered, rtol=1e-4, atol=1e-4)
    shutil.rmtree(run.recovered)
    export(str(run.root), str(tmp_path / "trained"), verify=False)
    torch.testing.assert_close(logits_of(load_model(tmp_path / "trained")), recovered, rtol=1e-4, atol=1e-4)
    shutil.rmtree(run.checkpoints)
    export(str(run.root), str(tmp_path / "pruned"), verify=False)
    assert torch.equal(logits_of(load_model(tmp_path / "pruned")), logits_of(load_model(run.pruned)))


@pytest.mark.parametrize("from_checkpoint", [True, False])
def test_an_adapter_loads_on_top_of_the_pruned_model(recover, tmp_path, from_checkpoint):
    from peft import PeftModel

    run, expected = recover(LoRA())
    place = run.checkpoints if from_checkpoint else run.root
    export(str(place), str(tmp_path / "out"), "adapter")
    adapted = PeftModel.from_pretrained(load_model(run.pruned), tmp_path / "out")
    torch.testing.assert_close(logits_of(adapted), expected, rtol=1e-4, atol=1e-4)


def test_a_full_recovery_has_no_adapter_and_says_what_to_do(recover, tmp_path):
    run, _ = recover(None)
    for place in (run.root, run.checkpoints):
        with pytest.raises(ValueError, match=r"trained all weights.*export as hf"):
            export(str(place), str(tmp_path / "out"), "adapter")
    assert not (tmp_path / "out").exists()


def test_neither_an_unrecovered_run_nor_a_model_folder_has_an_adapter(pruned_run, stories, tmp_path):
    with pytest.raises(ValueError, match="has made no checkpoint yet; export as hf"):
        export(str(pruned_run.root), str(tmp_path / "out"), "adapter")
    with pytest.raises(ValueError, match="neither a run nor a checkpoint"):
        export(stories, str(tmp_path / "out"), "adapter")


def test_a_damaged_checkpoint_is_refused_by_name_and_passed_over_in_its_run(recover, tmp_path):
    run, _ = recover(LoRA())
    newest, before, *_ = newest_first(run.checkpoints)
    (newest / "state.ckpt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"damaged: state\.ckpt has another content"):
        export(str(newest), str(tmp_path / "out"))
    export(str(run.checkpoints), str(tmp_path / "passed"), verify=False)
    export(str(before), str(tmp_path / "before"), verify=False)
    one, other = (logits_of(load_model(tmp_path / place)) for place in ("passed", "before"))
    assert torch.equal(one, other)


def test_a_checkpoint_taken_out_of_its_run_says_what_it_lacks(recover, tmp_path):
    run, _ = recover(LoRA())
    newest, *_ = newest_first(run.checkpoints)
    alone = shutil.copytree(newest, tmp_path / "elsewhere/checkpoints/step")
    with pytest.raises(ValueError, match="export it from within its run folder"):
        export(str(alone), str(tmp_path / "out"))


def test_a_run_without_a_model_and_a_folder_that_is_none_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="is not a model folder"):
        export(str(tmp_path / "run"), str(tmp_path / "out"))
    (tmp_path / "run/config.yaml").write_text("{}")
    with pytest.raises(ValueError, match="has made no model yet"):
        export(str(tmp_path / "run"), str(tmp_path / "out"))


@pytest.mark.distributed
@pytest.mark.parametrize("stage, lora", [(1, True), (2, False), (3, True), (3, False)])
def test_the_shards_of_two_ranks_make_one_model(tmp_path, stories, stage, lora):
    run = Run(tmp_path / "two", recovery(tmp_path / "inputs", stories, f"deepspeed_stage_{stage}", lora=lora))
    run.finish()
    export(str(run.checkpoints), str(tmp_path / "out"))
    one, other = (
        load_file(place / "model.safetensors") for place in (tmp_path / "out", run.run_dir / "recovered")
    )
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-6)
