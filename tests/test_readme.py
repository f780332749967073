"""The README and docs/ say what is so: tables, commands, files."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {page.name: page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
PARSED_AS = {"submit": "fit", "prune": "fit"}
"""Commands that take another's words, besides those of their own that `parse` takes off."""


def blocks(language):
    """The fenced blocks of all pages in one of the given languages."""
    found = [re.findall(rf"^```(?:{language})\n(.*?)^```", text, re.M | re.S) for text in PAGES.values()]
    return [block for page in found for block in page]


def commands():
    """Every `llm-prune` that a shell block of a page calls, a line each."""
    lines = "\n".join(blocks("bash|sh")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return sorted({shlex.join(each[1:]) for each in words if each and each[0] == "llm-prune"})


def test_the_tables_are_those_of_the_committed_results():
    subprocess.run([sys.executable, "benchmarks/readme_tables.py", "--check"], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_described(command):
    assert f"`llm-prune {command}" in README


def test_every_file_it_names_is_there():
    names = set(re.findall(r"(?:configs|benchmarks|docs|slurm)/[\w./-]+\.\w+", README))
    assert names
    assert not [name for name in names if not (ROOT / name).exists()]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_a_shell_block_is_one_that_can_be_given(command, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, *words = shlex.split(command)
    if name in ("compare", "status", "cancel"):
        words += ["--help"]
    else:
        words += ["--print_config"]
    with pytest.raises(SystemExit) as ended:
        cli.main([PARSED_AS.get(name, name), *words])
    assert ended.value.code in (0, None), capsys.readouterr().err


def test_every_target_of_make_that_is_named_is_there():
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", "\n".join(PAGES.values()), re.M))
    assert {"demo", "test"} <= targets
    subprocess.run(["make", "--dry-run", *sorted(targets)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("block", blocks("python"))
def test_every_import_of_a_python_block_works(block):
    exec("\n".join(re.findall(r"^(?:from|import) .*", block, re.M)), {})
