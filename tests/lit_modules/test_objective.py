"""The loss is that of learned tokens given those before, however samples lie in rows."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig

from lit_modules.adapters import LoRA, add_adapters
from lit_modules.bundling import packed
from lit_modules.collation import Collate
from lit_modules.isolation import check_isolation
from lit_modules.objective import learned_logits, summed_cross_entropy
from lit_modules.sampling import Pick
from lit_modules.token_cache import Examples
from pruner.checkpoint import load_model

LENGTHS = np.array([9, 5, 12, 7, 3, 14, 6], dtype=np.int32)
VOCABULARY = 64


class Ids:
    """An Arrow column's interface over one array."""

    def __init__(self, ids):
        self.values = self
        self.ids = ids

    def to_numpy(self):
        return self.ids


@pytest.fixture
def examples():
    random = np.random.default_rng(3)
    ids = [Ids(random.integers(1, VOCABULARY, length).astype(np.int32)) for length in LENGTHS]
    prompts = np.array([2, 1, 5, 6, 1, 7, 3], dtype=np.int32)
    digests = np.zeros(len(LENGTHS), np.uint64)
    return Examples(LENGTHS, prompts, digests, [0, len(LENGTHS)], np.array([0]), [ids])


def batch_of(examples, bundles, pack_length=None):
    return Collate(examples, np.arange(len(LENGTHS)), pack_length)(Pick(bundles, 0, 1.0))


def tiny(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).float()


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
ARCHITECTURES = {
    "llama": lambda: tiny(LlamaConfig(**SIZES, intermediate_size=64, num_key_value_heads=2)),
    "llama, eager": lambda: tiny(
        LlamaConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, attn_implementation="eager")
    ),
    "learned positions": lambda: tiny_of("gpt2"),
    "windows": lambda: tiny_of("gemma2"),
    "experts": lambda: tiny_of("qwen3_moe"),
}


def tiny_of(model_type):
    from benchmarks.tiny_configs import tiny_config

    return tiny(tiny_config(model_type))


def test_the_loss_is_that_of_learned_tokens_given_those_before(examples):
    model = ARCHITECTURES["llama"]().eval()
    batch = batch_of(examples, [np.array([0]), np.array([2])])
    logits, targets = learned_logits(model, batch)
    whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    at = [(0, place) for place in range(2, 9)] + [(1, place) for place in range(5, 12)]
    torch.testing.assert_close(logits, torch.stack([whole[row, place - 1] for row, place in at]))
    assert targets.tolist() == [int(batch["input_ids"][row, place]) for row, place in at]
    expected = -torch.stack([logits.log_softmax(-1)[index, each] for index, each in enumerate(targets)]).sum()
    torch.testing.assert_close(summed_cross_entropy(logits, targets), expected)


def loss_and_gradients(model, batches):
    model.zero_grad()
    total = sum(summed_cross_entropy(*learned_logits(model, batch)) for batch in batches)
    total.backward()
    return total.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_samples_have_the_loss_and_gradients_they_have_alone(examples, architecture, lora):
    model = ARCHITECTURES[architecture]().eval()
    if lora:
        model = add_adapters(model, LoRA(dropout=0.0)).eval()
        torch.nn.init.normal_(next(p for name, p in model.named_parameters() if "lora_B" in name))
    check_isolation(model)
    bundling = packed(LENGTHS, 24)
    bundles = [bundling.members(np.argsort(-LENGTHS, kind="stable"), each) for each in range(len(bundling))]
    assert len(bundles) < len(LENGTHS)
    loss, gradients = loss_and_gradients(model, [batch_of(examples, bundles, pack_length=24)])
    alone, expected = loss_and_gradients(
        model, [batch_of(examples, [np.array([row])]) for row in range(len(LENGTHS))]
    )
    torch.testing.assert_close(loss, alone, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=2e-4, atol=2e-5)


def test_a_model_whose_layers_differ_keeps_packed_samples_apart(stories, tmp_path):
    from pruner.checkpoint import save_model
    from pruner.discovery import discover
    from pruner.surgery import remove

    model = load_model(stories)
    groups = discover(model).groups
    first = next(group for group in groups if group.kind == "mlp")
    remove(model, groups, {first.name: list(range(8))})
    save_model(model, None, tmp_path / "pruned")
    check_isolation(load_model(tmp_path / "pruned"))


@pytest.mark.parametrize("model_type", ["bloom", "falcon_mamba", "opt", "rwkv"])
def test_a_model_that_mixes_packed_samples_is_refused(model_type):
    model = tiny(BloomConfig(**{**SIZES, "n_head": 4})) if model_type == "bloom" else tiny_of(model_type)
    with pytest.raises(ValueError, match=r"does not: .* use data\.batching: by_length"):
        check_isolation(model)


def test_a_filler_teaches_nothing(examples):
    model = ARCHITECTURES["llama"]()
    filler = np.array([-1])
    for pack_length in (None, 24):
        logits, targets = learned_logits(model, batch_of(examples, [filler], pack_length))
        assert len(targets) == 0
        assert summed_cross_entropy(logits, targets) == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("lora", [True, False])
def test_flash_attentions_lengths_agree_with_the_exact_mask(examples, lora):
    pytest.importorskip("flash_attn")
    from lit_modules.isolation import prefer_varlen

    model = ARCHITECTURES["llama"]().to("cuda", torch.bfloat16).eval()
    model = add_adapters(model, LoRA()).eval() if lora else model
    bundling = packed(LENGTHS, 24)
    bundles = [bundling.members(np.argsort(-LENGTHS, kind="stable"), each) for each in range(len(bundling))]
    batch = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in batch_of(examples, bundles, pack_length=24).items()
    }
    masked, expected = loss_and_gradients(model, [batch])
    prefer_varlen(model, torch.device("cuda"))
    assert model.config._attn_implementation == "flash_attention_2"
    check_isolation(model)
    loss, gradients = loss_and_gradients(model, [batch])
    torch.testing.assert_close(loss, masked, rtol=2e-2, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0.1, atol=0.1)
