import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from pruner.checkpoint import save_model
from pruner.discovery import discover
from pruner.export import export_model
from pruner.surgery import remove


def cut(model, layers=(1, 2)):
    """Remove half the units of the groups in some layers."""
    groups = [g for g in discover(model).groups if g.kind in ("mlp", "attention") and g.layer in layers]
    remove(model, groups, {group.name: range(group.num_units // 2) for group in groups})
    return model


@pytest.fixture
def folder(tiny, stories, tmp_path):
    """A pruned Llama whose layers differ, saved."""
    model, tokenizer = stories
    save_model(cut(model), tokenizer, tmp_path / "pruned")
    return tmp_path / "pruned"


@torch.no_grad()
def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    return model(torch.arange(12)[None], use_cache=False).logits


@pytest.mark.parametrize("format", ["hf", "padded"])
def test_an_export_is_the_same_model(folder, tmp_path, format):
    export_model(folder, tmp_path / "out", format)
    torch.testing.assert_close(logits(tmp_path / "out"), logits(folder), rtol=1e-4, atol=1e-4)


def test_padding_gives_the_dense_class_and_shapes(folder, tmp_path, data):
    export_model(folder, tmp_path / "out", "padded", verify=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    dense = AutoModelForCausalLM.from_pretrained(data / "stories260K")
    assert type(model) is LlamaForCausalLM
    assert [p.shape for p in model.parameters()] == [p.shape for p in dense.parameters()]


def test_a_model_in_which_places_matter_is_refused_with_the_format_that_can(stories, tmp_path):
    torch.manual_seed(0)
    model = cut(GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=512)).eval())
    save_model(model, stories[1], tmp_path / "pruned")
    with pytest.raises(ValueError, match="export as hf"):
        export_model(tmp_path / "pruned", tmp_path / "out", "padded")
    assert not (tmp_path / "out").exists()


def test_mistral_pads_too(stories, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 512}
    config = MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    save_model(cut(MistralForCausalLM(config).eval()), stories[1], tmp_path / "pruned")
    export_model(tmp_path / "pruned", tmp_path / "out", "padded")


def test_verification_notices_another_model(folder, tmp_path, monkeypatch):
    from pruner.export import exporting

    def spoilt(model, tokenizer, output):
        save_model(model, tokenizer, output)
        weights = load_file(output / "model.safetensors")
        name = next(name for name in weights if "down_proj" in name)
        weights[name] = weights[name] + 1
        save_file(weights, output / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(exporting, "save_model", spoilt)
    with pytest.raises(ValueError, match="holds another model"):
        export_model(folder, tmp_path / "out", "hf")


def test_nothing_is_written_over(folder, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists"):
        export_model(folder, tmp_path / "out")


def test_an_unknown_format_lists_those_there_are(folder, tmp_path):
    with pytest.raises(ValueError, match="hf, padded"):
        export_model(folder, tmp_path / "out", "onnx")


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        export_model(tmp_path / "empty", tmp_path / "out")


def test_what_memory_does_not_suffice_for_is_written_and_said_to_be_unverified(
    folder, tmp_path, monkeypatch, caplog
):
    from pruner.export import verification

    monkeypatch.setattr(verification, "available_memory", lambda: 1000)
    monkeypatch.setattr(verification.subprocess, "run", None)  # nothing is started
    export_model(folder, tmp_path / "out")
    assert "not verified: that takes" in caplog.text
    assert (tmp_path / "out/config.json").exists()


def test_free_memory_is_read_in_bytes():
    from pruner.export.verification import available_memory

    free = available_memory()
    assert free is None or 2**24 < free < 2**46
