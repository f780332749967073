"""With the plugin a model whose layers differ loads by name; in vLLM itself where that is installed."""

import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from pruner.checkpoint import load_model, save_model
from pruner.discovery import discover
from pruner.export.vllm_plugin import register_classes
from pruner.surgery import remove
from tests.pruner.export.test_formats import MODELS, pruned

ROOT = Path(__file__).parents[3]
IDS = torch.arange(12)[None]

LOAD = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
{register}
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=False)
with torch.no_grad():
    save_file({{"logits": model(torch.arange(12)[None]).logits.contiguous()}}, sys.argv[2])
"""


def loaded(folder, answer, register=""):
    """Load in a fresh process that trusts no code beside weights."""
    command = [sys.executable, "-c", LOAD.format(register=register), str(folder), str(answer)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["llama", "tied llama", "qwen2", "mistral"])
def test_the_plugin_makes_remote_code_needless(name, tmp_path):
    save_model(pruned(name, (1, 2)), None, tmp_path / "pruned")
    register = "from pruner.export.vllm_plugin import register; register()"
    run = loaded(tmp_path / "pruned", tmp_path / "answer.safetensors", register)
    assert run.returncode == 0, run.stderr[-2000:]
    with torch.no_grad():
        expected = load_model(tmp_path / "pruned")(IDS).logits
    assert torch.equal(load_file(tmp_path / "answer.safetensors")["logits"], expected)


def test_without_the_plugin_it_is_needed(tmp_path):
    save_model(pruned("llama", (1, 2)), None, tmp_path / "pruned")
    run = loaded(tmp_path / "pruned", tmp_path / "answer.safetensors")
    assert "trust_remote_code" in run.stderr
    assert run.returncode != 0


def test_a_configuration_is_unpickled_where_the_plugin_has_not_been_loaded(tmp_path):
    save_model(pruned("qwen2", (1, 2)), None, tmp_path / "pruned")
    register_classes("qwen2")
    config = AutoConfig.from_pretrained(tmp_path / "pruned", trust_remote_code=False)
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(config))
    read = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).to_json_string(use_diff=False))"
    command = [sys.executable, "-c", read, str(tmp_path / "config.pickle")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == config.to_json_string(use_diff=False).strip()


def test_vllm_finds_the_plugin_where_the_project_says_it_lies():
    text = (ROOT / "pyproject.toml").read_text()
    _, _, rest = text.partition('[project.entry-points."vllm.general_plugins"]\n')
    module, _, function = rest.splitlines()[0].partition(" = ")[2].strip('"').partition(":")
    assert callable(getattr(import_module(module), function))


def wide(name, layers):
    """A pruned model whose heads are of a width that vLLM has a kernel for."""
    cls, config = MODELS[name]
    sizes = {**config.to_dict(), "hidden_size": 128, "intermediate_size": 160, "head_dim": 32}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = cls(type(config)(**sizes)).eval()
    groups = [g for g in discover(model).groups if g.kind in ("mlp", "attention") and g.layer in layers]
    remove(model, groups, {group.name: range(group.num_units // 2, group.num_units) for group in groups})
    return model


@pytest.mark.vllm
@pytest.mark.parametrize(
    "name, layers, options",
    [
        ("llama", (0, 1, 2), {}),
        ("llama", (1, 2), {}),
        ("mistral", (0, 1, 2), {}),
        ("mistral", (1, 2), {}),
        ("qwen2", (0, 1, 2), {"model_impl": "transformers"}),  # its own divides the hidden size by the heads
        ("qwen2", (1, 2), {}),
    ],
)
def test_vllm_continues_a_text_as_transformers_does(name, layers, options, stories, tmp_path):
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    save_model(wide(name, layers), stories[1], tmp_path / "pruned")
    model = load_model(tmp_path / "pruned")
    expected = model.generate(IDS, max_new_tokens=16, min_new_tokens=16, do_sample=False)[0, 12:].tolist()
    engine = vllm.LLM(
        str(tmp_path / "pruned"), dtype="float32", enforce_eager=True, max_model_len=64, **options
    )
    greedy = vllm.SamplingParams(temperature=0, max_tokens=16, min_tokens=16, ignore_eos=True)
    (output,) = engine.generate([{"prompt_token_ids": IDS[0].tolist()}], greedy)
    assert list(output.outputs[0].token_ids) == expected
