"""A model that a device map has spread over main memory and disk is pruned as one that lies in memory."""

import copy
import sys
from contextlib import nullcontext

import accelerate.utils.modeling
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.tiny_configs import tiny_model
from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.checkpoint import load_model
from pruner.discovery import discover
from pruner.dispatching import first_gpu, gather, is_dispatched
from pruner.pipeline import PruningSettings, prune


def spread(model, folder):
    """Put every second decoder layer, the last norms and the head on disk."""
    layers = discover(model).layers
    places = {name: "disk" if number % 2 else "cpu" for number, name in enumerate(layers)}
    for name in model.state_dict():
        if not name.startswith(tuple(f"{layer}." for layer in layers)):
            places[name.rpartition(".")[0]] = "disk" if "norm" in name or "head" in name else "cpu"
    return dispatch_model(model, places, offload_dir=str(folder), main_device="cpu")


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "opt", "gemma2", "mixtral"])
def test_a_model_taken_off_its_map_is_what_it_was(name, tmp_path):
    model = tiny_model(name)
    plain, head = copy.deepcopy(model), model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    spread(model, tmp_path)
    assert any(weight.is_meta for weight in model.parameters())
    assert gather(model) is None
    assert not is_dispatched(model)
    assert vars(model).keys() == vars(plain).keys()
    assert same(model, plain)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)


def test_so_is_one_whose_weights_all_wait_in_main_memory():
    model = tiny_model("llama")
    plain = copy.deepcopy(model)
    gather(cpu_offload(model, execution_device="cpu"))
    assert same(model, plain)


@pytest.mark.parametrize("criterion", ["kronecker", "taylor_first", "wanda_sp", "l2"])
def test_a_model_loaded_with_a_map_is_pruned_as_one_without(criterion, data, tmp_path):
    folder = str(data / "stories260K")
    places = {f"model.layers.{number}": "disk" if number % 2 else "cpu" for number in range(5)}
    places |= dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=str(tmp_path), dtype=torch.float32
    )
    assert is_dispatched(loaded)
    plain, tokenizer = load_model(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    text = Calibration(str(data / "calibration" / "c4_200.jsonl"), num_samples=8, seq_len=32)
    asked = PruningSettings(Budget(0.3), criterion, calibration=text, protect_first=0, protect_last=0)
    assert prune(loaded, tokenizer, asked) == prune(plain, tokenizer, asked)
    assert same(loaded, plain)


@pytest.mark.parametrize("first", [1, "cuda:1"])
def test_its_layers_visit_the_first_gpu_of_the_map_and_all_is_at_home_then(first, tmp_path, monkeypatch):
    model = spread(tiny_model("llama"), tmp_path)
    model.hf_device_map = {"embed_tokens": "cpu", "layers.0": "disk", "layers.1": first, "norm": "cuda:0"}
    hook = model.model.layers[1].mlp.up_proj._hf_hook
    hook.execution_device = torch.device("cuda", 0)
    events, move = [], type(model).to

    def note(_model, _layers, device):
        events.append(device)
        return nullcontext()

    def to(model, place):
        events.append(place)
        return move(model, place)

    monkeypatch.setattr(sys.modules["pruner.pipeline.prune"], "layer_by_layer", note)
    monkeypatch.setattr(type(model), "to", to)
    prune(model, None, PruningSettings(Budget(0.3, 1), "l2", protect_first=0, compensation=None))
    assert events == ["cpu", torch.device("cuda", 1), "cpu"]


def test_without_a_map_it_is_the_first_gpu_of_a_hook():
    model = cpu_offload(tiny_model("llama"), execution_device="cpu")
    assert first_gpu(model) is None
    model.model.layers[1].mlp.up_proj._hf_hook.execution_device = torch.device("cuda", 2)
    assert first_gpu(model) == torch.device("cuda", 2)


def test_weights_that_a_checkpoint_keeps_apart_stay_apart(tmp_path):
    """Though its configuration says that they are one; so does from_pretrained without a map."""
    made = tiny_model("llama")
    made.config.tie_word_embeddings = True
    made.save_pretrained(tmp_path / "model", state_dict=made.state_dict())
    places = {f"model.layers.{number}": "disk" for number in range(made.config.num_hidden_layers)}
    places |= dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "disk")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=str(tmp_path)
    )
    gather(loaded)
    assert not torch.equal(plain.lm_head.weight, plain.model.embed_tokens.weight)
    assert same(loaded, plain)


def test_a_forward_of_the_users_own_stays(tmp_path):
    model = tiny_model("llama")
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda hidden: hidden * 2
    ids = torch.arange(8)[None]
    with torch.no_grad():
        before = model(ids).logits
        layers = dict.fromkeys(("model.layers.0", "model.layers.1"), "cpu")
        places = {name: "disk" for name, _ in model.named_modules() if name.count(".") == 2} | layers
        places |= dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "disk")
        dispatch_model(model, places, offload_dir=str(tmp_path), main_device="cpu")
        gather(model)
        assert torch.equal(model(ids).logits, before)


def test_a_weight_that_cannot_be_read_back_is_named_and_nothing_has_changed(tmp_path, monkeypatch):
    model = spread(tiny_model("llama"), tmp_path)
    read = accelerate.utils.modeling.get_state_dict_offloaded_model

    def some(model):
        return {name: weight for name, weight in read(model).items() if "layers.1" not in name}

    monkeypatch.setattr(accelerate.utils.modeling, "get_state_dict_offloaded_model", some)
    with pytest.raises(ValueError, match=r"layers\.1.* cannot be read back"):
        gather(model)
    assert is_dispatched(model)
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()


def test_discovery_does_not_mistake_its_hooks_for_the_model(tmp_path):
    with pytest.raises(ValueError, match=r"was loaded with a device map.*load it without one"):
        discover(spread(tiny_model("llama"), tmp_path))


def test_a_quantised_model_is_refused_as_such_and_stays_on_its_map(tmp_path):
    model = spread(tiny_model("llama"), tmp_path)
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ValueError, match="quantised weights cannot be sliced"):
        prune(model, None, PruningSettings(criterion="l2", compensation=None))
    assert is_dispatched(model)


def test_a_model_without_a_map_is_left_as_it_is():
    model = tiny_model("llama")
    weights = list(model.parameters())
    assert gather(model) is None
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), weights))
