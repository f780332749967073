"""A resumed run continues bit for bit, from whichever step it was killed at."""

import pytest
import torch

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


def test_keeping_one_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep >= 2"):
        Checkpointing(tmp_path, keep=1)
