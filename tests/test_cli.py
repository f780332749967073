import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "lightning", "transformers", "peft", "deepspeed", "datasets", "matplotlib", "lm_eval"}


def run(capsys, *args):
    status = cli.main([str(arg) for arg in args])
    return status, capsys.readouterr()


def test_help_names_every_command_and_imports_nothing_heavy():
    code = "import sys, cli; cli.main(['--help']); print(*{m.split('.')[0] for m in sys.modules})"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    *shown, modules = output.splitlines()
    assert not HEAVY & set(modules.split())
    assert all(any(line.split()[:1] == [command] for line in shown) for command in cli.COMMANDS)


def test_every_command_has_a_function():
    assert all(callable(getattr(cli, command)) for command in cli.COMMANDS)


def test_an_unknown_command_lists_those_there_are(capsys):
    status, output = run(capsys, "finetune")
    assert status == 2
    assert "fit" in output.err


BAD = [
    (["--pruner.budget.ratio", "1.5"], r"\[0, 1\)"),
    (["--pruner.criterion", "magic"], "taylor_first"),
    (["--pruner.calibration.path", "missing.jsonl"], "missing.jsonl"),
    (["--data.path", "missing.json"], "missing.json"),
    (["--model.model_name_or_path", "missing/model"], "missing/model"),
    (["--pruner.plan", "missing/plan.json"], "missing/plan.json"),
    (["--evaluation.texts", "[missing.txt]"], "missing.txt"),
]


@pytest.mark.parametrize(
    ("change", "message"), BAD, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_bad_input_is_one_message_and_leaves_no_run_folder(tmp_path, capsys, change, message):
    config = ROOT / "configs" / "demo.yaml"
    status, output = run(capsys, "fit", "--config", config, "--run_dir", tmp_path / "run", *change)
    assert status == 2
    assert "Traceback" not in output.err
    assert pytest.importorskip("re").search(message, output.err)
    assert not (tmp_path / "run").exists()
