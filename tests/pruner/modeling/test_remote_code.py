"""A model whose code lies beside its weights, such as Baichuan-13B, is saved with that code beside it."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from pruner.checkpoint import load_model, save_model
from pruner.discovery import discover
from pruner.surgery import remove

TESTS = Path(__file__).parents[2]
LOADER = TESTS.parent / "benchmarks" / "load_saved.py"
IDS = torch.arange(9)[None] * 2 + 3
CONFIGURATION = """
from transformers import PretrainedConfig


class BaichuanConfig(PretrainedConfig):
    model_type = "baichuan"

    def __init__(self, vocab_size=50, hidden_size=30, intermediate_size=44, num_hidden_layers=3,
                 num_attention_heads=5, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        super().__init__(**kwargs)
"""
MODELING = """
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .computing import Model
from .configuration_baichuan import BaichuanConfig


class BaichuanForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = BaichuanConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = Model(
            config.hidden_size, config.num_attention_heads, config.intermediate_size,
            config.num_hidden_layers, config.vocab_size
        )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids=None, use_cache=None, **kwargs):
        return CausalLMOutputWithPast(logits=self.lm_head(self.model(input_ids)))
"""


@pytest.fixture
def folder(tmp_path):
    """A tiny random model, laid out as the published one."""
    folder = tmp_path / "baichuan"
    folder.mkdir()
    (folder / "configuration_baichuan.py").write_text(CONFIGURATION)
    (folder / "modeling_baichuan.py").write_text(MODELING)
    shutil.copy(TESTS / "baichuan.py", folder / "computing.py")
    values = {
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "auto_map": {
            "AutoConfig": "configuration_baichuan.BaichuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(values))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    weights = {name: torch.randn(weight.shape) * 0.4 for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def pruned(folder):
    """Each layer with another number of heads and channels, run before it is saved."""
    model = load_model(folder, trust_remote_code=True)
    groups = [group for group in discover(model).groups if group.kind in ("mlp", "attention")]
    remove(model, groups, {group.name: range(group.layer, group.num_units) for group in groups})
    logits(model)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_it_loads_without_this_project_and_computes_the_same(pruned, tmp_path):
    save_model(pruned, None, tmp_path / "saved" / "model")
    expected = {"input_ids": IDS, "logits": logits(pruned).contiguous()}
    save_file(expected, tmp_path / "saved" / "model" / "expected.safetensors")
    command = [sys.executable, "-P", str(LOADER), str(tmp_path / "saved")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1]) == {"model": "ok"}


def test_it_is_pruned_and_saved_once_more(pruned, tmp_path):
    save_model(pruned, None, tmp_path / "once")
    model = load_model(tmp_path / "once", trust_remote_code=True)
    assert torch.equal(logits(model), logits(pruned))
    groups = [group for group in discover(model).groups if group.kind == "mlp"]
    remove(model, groups, {group.name: range(20) for group in groups})
    save_model(copy.deepcopy(model), None, tmp_path / "twice")
    again = load_model(tmp_path / "twice", trust_remote_code=True)
    assert torch.equal(logits(again), logits(model))


def test_code_that_came_with_the_dense_model_never_runs_unasked(pruned, tmp_path):
    save_model(pruned, None, tmp_path / "model")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(tmp_path / "model")
