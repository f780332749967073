import copy
import json
import sys
from contextlib import contextmanager, suppress

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from pruner import visiting
from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.compensation import Compensation
from pruner.discovery import discover
from pruner.importance.backward import language_loss
from pruner.pipeline import PruningSettings, prune
from pruner.run_folder import RunFolder
from pruner.stages import by_layer, prune_into
from pruner.visiting import Visit, is_layer_by_layer, layer_by_layer, present

CPU = torch.device("cpu")
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 512}
LLAMA = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
ARCHITECTURES = {
    "llama": LLAMA,
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 512},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 512},
    "opt": {**SMALL, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 16},
    "gemma2": {**LLAMA, "head_dim": 8, "sliding_window": 8},
    "gpt_neox": {**SMALL, "intermediate_size": 48},
    "falcon": SMALL,
    "mixtral": {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
}
ON_WEIGHTS = {"criterion": "taylor_first", "compensation": None}
FUSED = ("falcon", "mixtral")
"""Whose units no linear layer of their own reads."""
ASKED = {
    "default": {"budget": Budget(0.3, 1)},
    "a layer whole": {"budget": Budget(0.3, 1, layers=1)},
    "taylor_first": ON_WEIGHTS,
    "taylor_second": {"criterion": "taylor_second", "compensation": Compensation(epochs=0)},
    "gate_fisher, all layers at once": {"criterion": "gate_fisher", "granularity": "global"},
    "flap": {"criterion": "flap", "compensation": None},
    "l2": {"criterion": "l2", "compensation": None},
}


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.jsonl"
    words = "Once upon a time there was a little girl who had a red ball and a big dog. "
    file.write_text("".join(json.dumps({"text": words * (2 + i)}) + "\n" for i in range(12)))
    return Calibration(str(file), num_samples=8, seq_len=32)


@pytest.fixture
def tokenizer(data):
    return AutoTokenizer.from_pretrained(data / "stories260K")


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[request.param](**ARCHITECTURES[request.param])
    config.pad_token_id = 0
    return AutoModelForCausalLM.from_config(config).eval()


def settings(text, **changes):
    return PruningSettings(**{"calibration": text, "protect_first": 0, "protect_last": 1, **changes})


def assert_same(ours, theirs):
    for (name, one), (_, other) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_every_architecture_is_pruned_to_the_same_bits_as_without_visits(model, tokenizer, text):
    asked = settings(text, **(ON_WEIGHTS if model.config.model_type in FUSED else {}))
    staying = copy.deepcopy(model)
    plan = prune(staying, tokenizer, asked)
    assert prune(model, tokenizer, asked, visited=CPU) == plan
    assert_same(model, staying)
    assert not is_layer_by_layer(model)


class Absent(Visit):
    """Whoever uses the layer's weights while it is not there gets NaN."""

    here = most = 0

    def __init__(self, layer, device):
        super().__init__(layer, device)
        self.safe = {}
        self.leave()

    def leave(self):
        for name, tensor in self.layer.state_dict(keep_vars=True).items():
            self.safe[name] = tensor.data
            tensor.data = torch.full_like(tensor, torch.nan)

    def come(self):
        for name, tensor in self.layer.state_dict(keep_vars=True).items():
            tensor.data = self.safe.pop(name)

    @contextmanager
    def paid(self, *, changing=False):
        arriving = self.guests is None
        if arriving:
            self.come()
            Absent.here += 1
            Absent.most = max(Absent.most, Absent.here)
        with super().paid(changing=changing):
            for tensor in self.layer.parameters() if arriving else ():
                tensor.data = tensor.data.clone()  # as another device would
            yield
        if arriving:
            Absent.here -= 1
            self.leave()


@contextmanager
def with_absence(model, layers, device):
    with layer_by_layer(model, layers, device):
        visits = [vars(model.get_submodule(name))["forward"] for name in layers]
        yield
        for visit in visits:
            visit.come()


@pytest.mark.parametrize("asked", ASKED)
def test_one_layer_is_there_at_a_time_and_none_is_used_from_afar(stories, text, asked, monkeypatch):
    model, tokenizer = stories
    staying = copy.deepcopy(model)
    plan = prune(staying, tokenizer, settings(text, **ASKED[asked]))
    if ASKED[asked].get("compensation", True) is not None:
        monkeypatch.setattr(visiting, "Visit", Absent)
        monkeypatch.setattr(sys.modules["pruner.pipeline.prune"], "layer_by_layer", with_absence)
    monkeypatch.setattr(Absent, "most", 0)
    assert prune(model, tokenizer, settings(text, **ASKED[asked]), visited=CPU) == plan
    assert_same(model, staying)
    assert Absent.most <= 1


def test_a_plan_is_replayed_with_visits_as_without(stories, text, tmp_path, monkeypatch):
    model, tokenizer = stories
    prune(copy.deepcopy(model), tokenizer, settings(text)).save(tmp_path / "plan.json")
    again = PruningSettings(plan=str(tmp_path / "plan.json"), calibration=text)
    staying = copy.deepcopy(model)
    prune(staying, tokenizer, again)
    monkeypatch.setattr(visiting, "Visit", Absent)
    monkeypatch.setattr(sys.modules["pruner.pipeline.replaying"], "layer_by_layer", with_absence)
    prune(model, tokenizer, again, visited=CPU)
    assert_same(model, staying)


def kept_for_backward(model, tokens):
    """Bytes that a forward pass keeps, but for weights."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = language_loss(model, tokens).sum()
    return sum(kept.values()), loss


def test_of_a_layer_its_input_alone_is_kept_for_the_backward_pass(stories):
    model, _ = stories
    model.lm_head = torch.nn.Linear(model.config.hidden_size, 2, bias=False)  # whose logits are small
    tokens = torch.randint(0, 2, (4, 64), generator=torch.Generator().manual_seed(0))
    layers = discover(model).layers
    whole, loss = kept_for_backward(model, tokens)
    loss.backward()
    expected = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    with layer_by_layer(model, layers, CPU):
        inputs, loss = kept_for_backward(model, tokens)
        loss.backward()
    streams = (len(layers) + 4) * tokens.numel() * model.config.hidden_size * 4  # the last norm keeps some
    assert inputs < min(streams, whole / 5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])


def test_what_is_changed_in_a_visit_goes_home_and_what_fails_does_too(stories):
    model, _ = stories
    layer = model.model.layers[1]
    matrix = layer.mlp.down_proj.weight
    with layer_by_layer(model, ["model.layers.1"], CPU):
        with suppress(KeyError), present(layer):
            matrix.data = torch.ones(2, 3)
            raise KeyError
        assert matrix.equal(torch.ones(2, 3))
        assert vars(layer)["forward"].guests is None


def test_the_stage_makes_the_same_folder_either_way(data, text, tmp_path):
    weights = []
    for number, way in enumerate((False, True)):
        run = RunFolder(tmp_path / str(number))
        prune_into(run, str(data / "stories260K"), settings(text, layer_by_layer=way))
        weights.append((run.pruned / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize("room, expected", [(1.9, True), (2.1, False)])
def test_without_room_for_twice_the_weights_layers_visit_the_gpu(stories, room, expected, monkeypatch):
    model, _ = stories
    size = sum(weight.nbytes for weight in model.parameters())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (int(room * size), 99 * size))
    assert by_layer(model, PruningSettings(), torch.device("cuda", 0)) == expected
    assert by_layer(model, PruningSettings(layer_by_layer=not expected), torch.device("cuda", 0)) != expected
    assert not by_layer(model, PruningSettings(), CPU)
