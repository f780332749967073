"""Whoever waits sees how far it is: a bar on a terminal, a line now and then elsewhere."""

import io
import logging
import sys

import lit_modules.callbacks.progress as progress
from lit_modules.callbacks.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_bar_ends_at_all_steps(fit, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(callbacks=[Progress()], enable_progress_bar=True, max_steps=4)
    shown = terminal.getvalue()
    assert "4/4" in shown
    assert "loss=" in shown
    assert "00:00<" in shown


def test_in_a_file_a_line_tells_step_time_left_and_loss(fit, monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, logger="lit_modules"):
        fit(callbacks=[Progress()], enable_progress_bar=True, max_steps=4)
    lines = [record.message for record in caplog.records if record.message.startswith("recovering")]
    assert lines[-1].startswith("recovering: step 4 of 4, 0:00:00 left, ")
    assert "loss" in lines[-1]
