import re
import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tables_are_those_of_the_committed_results():
    subprocess.run([sys.executable, "benchmarks/readme_tables.py", "--check"], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_described(command):
    assert f"`llm-prune {command}" in README


def test_every_file_it_names_is_there():
    names = set(re.findall(r"(?:configs|benchmarks|docs|slurm)/[\w./-]+\.\w+", README))
    assert names
    assert not [name for name in names if not (ROOT / name).exists()]
