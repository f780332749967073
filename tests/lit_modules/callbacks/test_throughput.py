"""Tokens are counted as they are trained on, with and without padding."""

import time

import pytest
from lightning.pytorch import Callback

from lit_modules.callbacks.throughput import Throughput


class Metrics(Callback):
    """Keeps what was logged after every optimizer step, and counts tokens and time itself."""

    def __init__(self):
        self.logged = []
        self.tokens = self.padded = 0

    def on_train_start(self, trainer, pl_module):
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.tokens += int(batch["attention_mask"].sum())
        self.padded += batch["input_ids"].numel()
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.seconds = time.perf_counter() - self.start


def test_the_rate_is_tokens_over_the_time_training_took(fit):
    metrics = Metrics()
    fit(callbacks=[Throughput(), metrics], log_every_n_steps=10, max_steps=10, limit_val_batches=0)
    logged = metrics.logged[-1]
    assert logged["tokens_per_second"] >= metrics.tokens / metrics.seconds
    assert logged["tokens_per_second"] == pytest.approx(metrics.tokens / metrics.seconds, rel=0.5)
    assert logged["padded_per_second"] / logged["tokens_per_second"] == pytest.approx(
        metrics.padded / metrics.tokens
    )
    assert 0 <= logged["data_wait"] < 0.5
    assert 0.1 < logged["memory_gb"] < 64


def test_time_left_and_the_share_of_the_peak_follow_from_the_rate(fit, stories):
    metrics = Metrics()
    module, _ = fit(
        callbacks=[Throughput(peak_tflops=0.01), metrics],
        log_every_n_steps=3,
        max_steps=9,
        limit_val_batches=0,
    )
    early, last = metrics.logged[6], metrics.logged[-1]
    assert last["hours_left"] == 0 < early["hours_left"] < 1
    per_token = last["mfu"] * 1e10 / last["padded_per_second"]
    whole, trained = (
        sum(p.numel() for p in module.model.parameters() if p.dim() > 1 and (p.requires_grad or frozen))
        for frozen in (True, False)
    )
    assert per_token == pytest.approx(4 * whole + 2 * trained, rel=1e-3)
    assert last["MFU"] == last["mfu"]


def test_without_a_known_peak_no_share_of_it_is_claimed(fit):
    metrics = Metrics()
    fit(callbacks=[Throughput(), metrics], log_every_n_steps=2, max_steps=2)
    assert "tokens_per_second" in metrics.logged[-1]
    assert "mfu" not in metrics.logged[-1]


def test_waiting_for_data_is_seen(fit, make_data):
    data = make_data()
    fast = data.train_dataloader

    def slow():
        loader = fast()
        collate = loader.collate

        def collate_slowly(pick):
            time.sleep(0.5)
            return collate(pick)

        loader.collate = collate_slowly
        return loader

    data.train_dataloader = slow
    metrics = Metrics()
    fit(data=data, callbacks=[Throughput(), metrics], log_every_n_steps=2, max_steps=2)
    assert metrics.logged[-1]["data_wait"] > 0.5
