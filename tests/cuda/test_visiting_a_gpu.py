"""A model whose layers visit the GPU one at a time: the same result, in the memory of two of its layers."""

import copy
import json

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.pipeline import PruningSettings, prune

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU on this machine"),
]
GPU = torch.device("cuda", 0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 32, "vocab_size": 512}
    return LlamaForCausalLM(LlamaConfig(**size, num_attention_heads=4)).eval()


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "text.jsonl"
    words = "Once upon a time there was a little girl who had a red ball and a big dog. "
    file.write_text("".join(json.dumps({"text": words * (2 + i)}) + "\n" for i in range(12)))
    return PruningSettings(Budget(0.3, 1), calibration=Calibration(str(file), num_samples=8, seq_len=32))


def peak(work):
    """What a function adds at most to the GPU's memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    before = torch.cuda.memory_allocated(GPU)
    work()
    return torch.cuda.max_memory_allocated(GPU) - before


def test_layers_come_to_the_gpu_and_go_home(model, settings, data):
    tokenizer = AutoTokenizer.from_pretrained(data / "stories260K")
    staying = copy.deepcopy(model)
    weights = sum(weight.nbytes for weight in model.parameters())
    assert peak(lambda: prune(staying.to(GPU), tokenizer, settings)) > weights
    assert peak(lambda: prune(model, tokenizer, settings, visited=GPU)) < weights / 2
    assert {weight.device.type for weight in model.model.layers.parameters()} == {"cpu"}
    assert model.model.embed_tokens.weight.device == GPU
    for (name, one), other in zip(model.state_dict().items(), staying.state_dict().values()):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=1e-2, atol=1e-3, msg=name)
