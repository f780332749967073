"""After the last step the adapter and the merged model lie in their folders, equal to the one in memory."""

import json

import pytest
import torch
from lightning.pytorch import Callback

from lit_modules.adapters import LoRA
from lit_modules.callbacks.checkpoint_folder import latest_checkpoint
from lit_modules.callbacks.export import Export, write_folder
from lit_modules.recovery import Recovery
from pruner.checkpoint import load_model, load_tokenizer
from pruner.run_folder import RunFolder, done_record

IDS = torch.arange(3, 40)[None]


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@torch.no_grad()
def logits_of(model):
    return model.eval()(IDS).logits


@pytest.mark.parametrize("lora", [LoRA(), None])
def test_the_recovered_folder_equals_the_model_in_memory(fit, stories, run, lora):
    module, seen = fit(module=Recovery(stories, lora=lora, learning_rate=1e-2), callbacks=[Export(run)])
    expected = logits_of(module.model)
    assert not torch.allclose(expected, logits_of(load_model(stories)), atol=0.1)
    torch.testing.assert_close(logits_of(load_model(run.recovered)), expected, rtol=1e-4, atol=1e-4)
    assert load_tokenizer(run.recovered).get_vocab() == load_tokenizer(stories).get_vocab()
    assert done_record(run.recovered)["step"] == seen[-1][0]


def test_the_adapter_alone_makes_the_same_of_the_pruned_model(fit, stories, run):
    from peft import PeftModel

    module, _ = fit(callbacks=[Export(run)])
    adapted = PeftModel.from_pretrained(load_model(stories), run.adapter)
    torch.testing.assert_close(logits_of(adapted), logits_of(module.model))


def test_full_training_leaves_no_adapter(fit, stories, run):
    fit(module=Recovery(stories, lora=None), callbacks=[Export(run)], max_steps=1)
    assert not run.adapter.exists()


class StopInExport(Callback):
    def on_fit_end(self, trainer, pl_module):
        raise RuntimeError("killed")


def test_a_run_killed_before_its_export_exports_when_started_again(fit, run):
    with pytest.raises(RuntimeError, match="killed"):
        fit(callbacks=[StopInExport()])
    assert done_record(run.recovered) is None
    _, seen = fit(callbacks=[Export(run)], ckpt_path=latest_checkpoint(run.checkpoints))
    assert seen == []
    assert done_record(run.recovered)["step"] > 0


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def half(folder):
        folder.mkdir()
        (folder / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "model", {}, half)
    assert not (tmp_path / "model").exists()
    write_folder(tmp_path / "model", {"step": 3}, lambda folder: folder.mkdir())
    assert json.loads((tmp_path / "model/DONE").read_text()) == {"step": 3}
