"""What a configuration alone does not lead to, or does not describe, is saved with what does."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.tiny_configs import tiny_inputs, tiny_model
from pruner.checkpoint import save_model
from pruner.discovery import discover
from pruner.surgery import remove

LOADER = Path(__file__).parents[3] / "benchmarks" / "load_saved.py"
ODD = {
    "emu3": "a decoder that a composite configuration leads to",
    "musicgen": "another, that keeps its attention's name on a module",
    "prophetnet": "a number of layers that cannot be set",
    "deepseek_v2": "key-value heads that only plain attention reads",
    "gemma4_text": "layers that differ before any is cut",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each of them, half its units gone, with the logits that it gave in memory."""
    root = tmp_path_factory.mktemp("odd")
    for name in ODD:
        model = tiny_model(name).float()
        inputs = tiny_inputs(model)
        groups = [group for group in discover(model, inputs).groups if group.kind in ("mlp", "attention")]
        remove(model, groups, {group.name: range(0, group.num_units, 2) for group in groups})
        save_model(model, None, root / name)
        with torch.no_grad():
            logits = copy.deepcopy(model)(**inputs, use_cache=False).logits.contiguous()
        save_file({**inputs, "logits": logits}, root / name / "expected.safetensors")
    return root


@pytest.fixture(scope="module")
def verdicts(folder):
    command = [sys.executable, "-P", str(LOADER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ODD)
def test_it_loads_without_this_project_and_computes_the_same(name, verdicts):
    assert verdicts[name] == "ok"
