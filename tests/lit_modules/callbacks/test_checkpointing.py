"""A resumed run continues bit for bit, from whichever step it was killed at."""

import logging
import re
import resource

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy

from lit_modules.adapters import LoRA
from lit_modules.callbacks.checkpoint_folder import latest_checkpoint, newest_first
from lit_modules.callbacks.checkpointing import Checkpointing
from lit_modules.recovery import Recovery


def module_for(stories, lora):
    return Recovery(stories, lora=lora, learning_rate=1e-2, warmup_steps=2)


@pytest.fixture
def uninterrupted(fit, stories, request):
    lora = getattr(request, "param", LoRA())
    module, seen = fit("whole", module=module_for(stories, lora))
    return lora, module.trained_weights(), seen


def resumed(fit, stories, tmp_path, make_data, lora, kills, **data):
    """Fit, killed before each batch of `kills` counted over the whole run; the batches that counted."""
    kept = []
    for kill in [*kills, None]:
        checkpoint = latest_checkpoint(tmp_path / "run/checkpoints")
        done = torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint else 0
        kept = kept[: 2 * done]
        module, seen = fit(
            stop_at=None if kill is None else kill - len(kept),
            ckpt_path=checkpoint,
            module=module_for(stories, lora),
            data=make_data(**data),
        )
        kept += seen
    return module.trained_weights(), kept


@pytest.mark.parametrize("kills", [[1], [4], [15], [16], [17], [16, 21], [3, 9, 16, 21, 31]])
def test_a_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    fit, stories, tmp_path, make_data, uninterrupted, kills
):
    lora, weights, seen = uninterrupted
    assert len(seen) == 32
    resumed_weights, resumed_seen = resumed(fit, stories, tmp_path, make_data, lora, kills)
    assert resumed_seen == seen
    assert all(torch.equal(resumed_weights[name], weights[name]) for name in weights)


@pytest.mark.parametrize("uninterrupted", [None], indirect=True)
def test_so_does_full_training_with_worker_processes(fit, stories, tmp_path, make_data, uninterrupted):
    lora, weights, seen = uninterrupted
    resumed_weights, resumed_seen = resumed(fit, stories, tmp_path, make_data, lora, [6, 15], num_workers=2)
    assert resumed_seen == seen
    assert all(torch.equal(resumed_weights[name], weights[name]) for name in weights)


def test_dropout_matters_so_the_random_state_is_what_resumes(fit, stories):
    _, first = fit("a", max_steps=2, every_steps=50)
    _, second = fit("b", module=module_for(stories, LoRA(dropout=0.0)), max_steps=2, every_steps=50)
    assert first != second


def test_a_finished_run_that_is_started_again_trains_no_further(fit, stories, tmp_path):
    module, _ = fit()
    again, seen = fit(ckpt_path=latest_checkpoint(tmp_path / "run/checkpoints"))
    assert seen == []
    weights = module.trained_weights()
    assert all(torch.equal(value, weights[name]) for name, value in again.trained_weights().items())


def test_the_newest_two_are_kept_and_the_last_step_is_one(fit, tmp_path):
    _, seen = fit()
    kept = [folder.name for folder in newest_first(tmp_path / "run/checkpoints")]
    last = seen[-1][0]
    assert kept == [f"step-{last:08d}", f"step-{(last - 1) // 2 * 2:08d}"]


class FullDisk(Callback):
    """Lets no file grow beyond some bytes while the optimizer steps of `during` are made and saved."""

    def __init__(self, during):
        self.during = during
        self.unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        full = trainer.global_step + 1 in self.during
        soft = 20_000 if full else self.unlimited[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, self.unlimited[1]))

    def on_train_end(self, trainer, pl_module):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.unlimited)


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(fit, tmp_path, caplog):
    _, whole = fit("whole")
    with caplog.at_level(logging.WARNING):
        _, seen = fit("full", callbacks=[FullDisk({4, 6})], stop_at=13)
    assert "cannot save step 4" in caplog.text
    assert re.search("the newest checkpoint stays step-00000002", caplog.text)
    assert [folder.name for folder in (tmp_path / "full/checkpoints").iterdir()] == ["step-00000002"]
    _, rest = fit("full", ckpt_path=tmp_path / "full/checkpoints")
    assert seen[:4] + rest == whole


def test_resume_takes_the_newest_of_the_folder_that_holds_and_says_what_it_passed_over(fit, tmp_path, caplog):
    _, whole = fit("whole")
    fit("run", stop_at=13)
    checkpoints = tmp_path / "run/checkpoints"
    newest = checkpoints / "step-00000006/state.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        _, rest = fit("run", ckpt_path=Checkpointing(checkpoints).resume_from)
    assert "step-00000006 is damaged (state.ckpt has another content than was written)" in caplog.text
    assert rest == whole[8:]


def test_a_step_that_becomes_another_size_is_announced(fit, tmp_path, make_data, caplog):
    fit("run", stop_at=5)
    with caplog.at_level(logging.WARNING):
        fit("run", ckpt_path=tmp_path / "run/checkpoints", data=make_data(batch_size=4), max_epochs=1)
    assert "an optimizer step had 4 rows and has 8 from here on" in caplog.text


def test_with_nothing_saved_there_is_nothing_to_resume_from(tmp_path):
    assert Checkpointing(tmp_path / "absent").resume_from is None


def test_lightnings_own_deepspeed_which_saves_pickles_is_refused(tmp_path, stories):
    trainer = Trainer(accelerator="cpu", devices=1, strategy=DeepSpeedStrategy(), logger=False)
    with pytest.raises(ValueError, match="saves pickles; write deepspeed_stage_1"):
        Checkpointing(tmp_path).setup(trainer, Recovery(stories), "fit")


def test_keeping_one_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep >= 2"):
        Checkpointing(tmp_path, keep=1)
