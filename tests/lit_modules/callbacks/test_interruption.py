"""A signal stops the run at the next step's boundary, saved; its next start continues it."""

import csv
import os
import signal

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from lit_modules.callbacks.checkpoint_folder import latest_checkpoint
from lit_modules.callbacks.interruption import Interrupted, Interruption


class SendAt(Callback):
    """Sends this process a signal in the middle of batch `batch`."""

    def __init__(self, number, batch):
        self.number = number
        self.batch = batch
        self.count = 0

    def on_before_backward(self, trainer, pl_module, loss):
        if self.count == self.batch:
            os.kill(os.getpid(), self.number)
        self.count += 1


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("batch, step", [(0, 1), (5, 3), (6, 4)])
def test_a_signal_saves_the_step_under_way_and_stops(fit, tmp_path, number, batch, step):
    with pytest.raises(Interrupted, match=f"after step {step}"):
        fit(callbacks=[SendAt(number, batch), Interruption], every_steps=100)
    assert latest_checkpoint(tmp_path / "run/checkpoints").parent.name == f"step-{step:08d}"


def test_an_interrupted_run_continues_without_losing_or_repeating_a_step(fit, tmp_path):
    _, whole = fit("whole")
    with pytest.raises(Interrupted):
        fit(callbacks=[SendAt(signal.SIGUSR1, 5), Interruption], every_steps=100)
    _, rest = fit(ckpt_path=latest_checkpoint(tmp_path / "run/checkpoints"), callbacks=[Interruption])
    assert rest == whole[6:]


def test_the_loss_of_the_step_that_was_signalled_is_logged(fit, tmp_path):
    logger = CSVLogger(tmp_path, name="logs", version="")
    with pytest.raises(Interrupted):
        fit(callbacks=[SendAt(signal.SIGUSR1, 5), Interruption], logger=logger, log_every_n_steps=1)
    with (tmp_path / "logs/metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["loss"]]
    assert steps == [0, 1, 2]


def test_the_signals_are_given_back(fit):
    before = {each: signal.getsignal(each) for each in (signal.SIGUSR1, signal.SIGTERM)}
    fit(callbacks=[Interruption], max_steps=1)
    assert {each: signal.getsignal(each) for each in before} == before
