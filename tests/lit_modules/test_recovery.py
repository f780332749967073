"""A recovery trains what it should, survives what it can, and refuses another run's state."""

import pytest
import torch
from lightning.pytorch import Callback

from lit_modules.adapters import LoRA
from lit_modules.callbacks.checkpoint_folder import latest_checkpoint
from lit_modules.recovery import Recovery
from lit_modules.schedules import rate_factor
from pruner.checkpoint import load_model


@pytest.mark.parametrize("schedule, end", [("cosine", 0.0), ("linear", 0.0), ("constant", 1.0)])
def test_the_rate_rises_to_its_peak_and_ends_where_the_schedule_says(schedule, end):
    rates = [rate_factor(schedule, step, 4, 20) for step in range(21)]
    assert rates[:5] == sorted(rates[:5])
    assert rates[0] > 0
    assert max(rates) == rates[4] == 1
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(end)


@pytest.mark.parametrize("lora", [LoRA(), None])
def test_recovery_lowers_the_loss(fit, stories, lora):
    module = Recovery(stories, lora=lora, learning_rate=1e-2, warmup_steps=1)
    _, seen = fit(module=module, max_epochs=6, limit_val_batches=0)
    losses = [loss for _, _, loss in seen]
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


def test_under_lora_every_projection_of_the_decoder_is_trained_in_fp32_and_nothing_else(fit, stories):
    module, _ = fit(module=Recovery(stories, dtype="bf16"), max_steps=1)
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert all(".lora_" in name for name in trained)
    projections = {name.split(".")[-4] for name in trained}
    assert projections == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    frozen = {value.dtype for value in module.parameters() if not value.requires_grad}
    assert frozen == {torch.bfloat16}


def test_a_checkpoint_under_lora_leaves_the_frozen_weights_out(fit, stories, tmp_path):
    fit(max_steps=2)
    saved = torch.load(latest_checkpoint(tmp_path / "run/checkpoints"), weights_only=True)
    assert all(".lora_" in name for name in saved["state_dict"])
    assert len(saved["state_dict"]) == 5 * 7 * 2


def test_the_gradient_is_the_mean_over_the_steps_tokens_however_it_is_split(fit, stories, make_data):
    def trained(batch_size, accumulation):
        module = Recovery(stories, lora=LoRA(dropout=0.0), learning_rate=1e-3, warmup_steps=0)
        data = make_data(batch_size=batch_size)
        fit(f"run{batch_size}", module=module, data=data, accumulate_grad_batches=accumulation, max_steps=3)
        return module.trained_weights()

    whole, parts = trained(4, 1), trained(1, 4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=2e-5)


def test_packing_changes_neither_a_samples_loss_nor_the_weight_of_a_token(fit, stories, make_data):
    def losses(**settings):
        module = Recovery(stories, lora=LoRA(dropout=0.0), learning_rate=1e-9)
        data = make_data(**settings, validation_share=0.0)
        _, seen = fit(settings["batching"], module=module, data=data, max_epochs=1, accumulate_grad_batches=1)
        counts = [
            data.samples.examples.lengths[rows] - data.samples.examples.num_prompts[rows]
            for _, rows, _ in seen
        ]
        tokens = [count.sum() for count in counts]
        return sum(loss * count for (_, _, loss), count in zip(seen, tokens)) / sum(tokens), sum(tokens)

    padded, num_padded = losses(batching="padded", batch_size=1)
    packed, num_packed = losses(batching="packed", batch_size=1)
    assert num_packed == num_padded
    assert packed == pytest.approx(padded, rel=1e-5)


@pytest.mark.parametrize("batching", ["packed", "by_length"])
def test_a_resumed_run_of_bundles_is_bit_identical(fit, make_data, tmp_path, batching):
    def data():
        return make_data(batching=batching, num_workers=1)

    expected = fit("whole", data=data())[0].trained_weights()
    _, before = fit("killed", data=data(), stop_at=5)
    again, after = fit("killed", data=data(), ckpt_path=latest_checkpoint(tmp_path / "killed/checkpoints"))
    assert 0 < len(before) <= 5 < len(before) + len(after)
    assert all(torch.equal(value, expected[name]) for name, value in again.trained_weights().items())


class Poison(Callback):
    """Makes one gradient infinite at the given optimizer steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step in self.steps:
            next(p for p in pl_module.parameters() if p.requires_grad).grad.fill_(torch.inf)


class Watch(Callback):
    """Keeps a copy of trained weights and moments after every optimizer step."""

    def __init__(self):
        self.after = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        moments = [
            value.clone() for state in trainer.optimizers[0].state.values() for value in state.values()
        ]
        self.after.append([*pl_module.trained_weights().values(), *moments])


def test_a_step_with_a_non_finite_gradient_leaves_weights_and_moments_as_they_were(fit):
    watch = Watch()
    fit(callbacks=[Poison({2}), watch], accumulate_grad_batches=1, max_steps=5, val_check_interval=1.0)
    first, poisoned, after = watch.after[1:4]
    assert all(torch.equal(left, right) for left, right in zip(first, poisoned, strict=True))
    assert not all(torch.equal(left, right) for left, right in zip(poisoned, after, strict=True))


def test_too_many_such_steps_in_a_row_end_the_run(fit, stories):
    module = Recovery(stories, max_skipped_steps=3)
    with pytest.raises(ValueError, match="3 steps in a row had a non-finite gradient"):
        fit(module=module, callbacks=[Poison({0, 2, 3, 4})])


def test_gradients_are_clipped_as_the_trainer_asks(fit, stories):
    norms = []

    class Norms(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(grads)) if grads else 0.0)

    fit(callbacks=[Norms()], gradient_clip_val=0.01, max_steps=3)
    assert max(norms) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lora": LoRA(r=4)}, r"other recovery.*lora\.r: 8 -> 4"),
        ({"lora": None}, "other recovery.*lora"),
    ],
)
def test_a_checkpoint_of_another_recovery_is_refused(fit, stories, tmp_path, settings, message):
    fit(max_steps=2)
    with pytest.raises(ValueError, match=message):
        fit(module=Recovery(stories, **settings), ckpt_path=latest_checkpoint(tmp_path / "run/checkpoints"))


@pytest.mark.parametrize(
    "lora, message",
    [(LoRA(target_modules=["nope"]), "does not fit"), (LoRA(options={"rank": 3}), "does not fit")],
)
def test_adapters_that_peft_refuses_are_refused_in_our_words(stories, lora, message):
    from lit_modules.adapters import add_adapters

    with pytest.raises(ValueError, match=message):
        add_adapters(load_model(stories), lora)


def test_a_precision_that_would_cast_the_adapters_is_refused(fit):
    with pytest.raises(ValueError, match=r"choose model\.dtype"):
        fit(precision="bf16-true")


@pytest.mark.parametrize("name, value", [("learning_rate", 0.0), ("max_skipped_steps", 0)])
def test_settings_that_cannot_work_are_refused_at_once(name, value):
    with pytest.raises(ValueError, match=rf"model\.{name} must be positive"):
        Recovery("nowhere", **{name: value})
