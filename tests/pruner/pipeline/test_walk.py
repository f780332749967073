import copy
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.compensation import Compensation
from pruner.compensation.room import beside, room
from pruner.compensation.streams import advance, embed, is_residual, layer_calls, watch
from pruner.discovery import discover
from pruner.importance.activations import project
from pruner.importance.backward import language_loss
from pruner.pipeline import PruningSettings, prune
from pruner.pipeline.dense import Dense
from pruner.pipeline.refitting import compensate
from pruner.pipeline.walk import compress
from pruner.progress import silent
from pruner.surgery import remove

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64}
LLAMA = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
ARCHITECTURES = {
    "llama": LLAMA,
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 1},
    "gpt_neox": {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64},
    "qwen2": LLAMA,
    "opt": {**SMALL, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    "gemma2": {**LLAMA, "head_dim": 8, "sliding_window": 8},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64},
}
NOT_SEEN_TO_ADD = {"gemma2"}  # a norm behind the projections


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture
def model(architecture):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[architecture](**ARCHITECTURES[architecture])
    config.pad_token_id = 0
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 64, (10, 24), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_a_stream_carried_through_all_layers_is_the_model_s_own(model, tokens):
    layers = discover(model).layers
    last = model.get_submodule(layers[-1])
    seen = []
    hook = last.register_forward_hook(
        lambda _m, _a, out: seen.append(out if torch.is_tensor(out) else out[0])
    )
    model(tokens, use_cache=False)
    hook.remove()
    stream = embed(model, layers[0], tokens).clone()
    for layer, call in zip(layers, layer_calls(model, layers, tokens, 4)):
        advance(model.get_submodule(layer), call, stream, 4)
    torch.testing.assert_close(stream, seen[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_whether_a_layer_only_adds_to_its_input_is_seen(architecture, model, tokens):
    structure = discover(model)
    groups = [group for group in structure.groups if group.layer == 1 and group.kind in ("mlp", "attention")]
    modules = [p.module.removeprefix(f"{structure.layers[1]}.") for p in project(model, groups).values()]
    calls = layer_calls(model, structure.layers, tokens, len(tokens))
    hidden = embed(model, structure.layers[0], tokens).clone()
    advance(model.get_submodule(structure.layers[0]), calls[0], hidden, len(hidden))
    passage = watch(model.get_submodule(structure.layers[1]), calls[1], hidden, modules)
    assert is_residual(passage, hidden, modules) != (architecture in NOT_SEEN_TO_ADD)


def test_compensation_brings_the_model_back_towards_the_dense_one(model, tokens):
    dense = Dense.of(model, discover(model))
    kinds = [group for group in dense.structure.groups if group.kind == "mlp"]
    kept = {group.name: range(group.num_units // 2) for group in kinds}
    cut, refitted = copy.deepcopy(model), copy.deepcopy(model)
    remove(cut, kinds, kept)
    compensate(refitted, dense, kept, tokens, Compensation(damping=0.01, batch_size=4), lambda x, *_: iter(x))
    with torch.no_grad():
        want, before, after = (m(tokens).logits for m in (model, cut, refitted))
    assert (after - want).norm() < 0.8 * (before - want).norm()


def test_the_batch_size_of_the_walk_changes_nothing(model, tokens):
    dense = Dense.of(model, discover(model))
    kinds = [group for group in dense.structure.groups if group.kind in ("mlp", "attention")]
    kept = {group.name: range(1, group.num_units) for group in kinds}
    results = []
    for size in (3, 10):
        results.append(copy.deepcopy(model))
        compensate(results[-1], dense, kept, tokens, Compensation(batch_size=size), lambda x, *_: iter(x))
    for one, other in zip(*(result.parameters() for result in results)):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_streams_on_disk_give_the_same_model_and_leave_nothing_behind(model, tokens, tmp_path):
    dense = Dense.of(model, discover(model))
    kinds = [group for group in dense.structure.groups if group.kind in ("mlp", "attention")]
    kept = {group.name: range(1, group.num_units) for group in kinds}
    results = []
    for folder in (None, str(tmp_path)):
        results.append(copy.deepcopy(model))
        settings = Compensation(batch_size=4, streams=folder)
        compensate(results[-1], dense, kept, tokens, settings, lambda x, *_: iter(x))
    assert all(torch.equal(one, other) for one, other in zip(*(result.parameters() for result in results)))
    assert not list(tmp_path.iterdir())


def test_a_stream_in_a_file_is_as_good_as_one_in_memory_and_is_refused_where_there_is_no_folder(tmp_path):
    stream = room((3, 5, 2), torch.bfloat16, torch.device("cpu"), str(tmp_path))
    stream.copy_(torch.arange(30).view(3, 5, 2))
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert [line.split()[1] for line in mapped] == ["rw-s"]  # the file's own pages, not a copy of them
    assert torch.equal(beside(stream, None), stream)
    with pytest.raises(OSError, match="nowhere"):
        room((3, 5, 2), torch.float32, torch.device("cpu"), str(tmp_path / "nowhere"))


@pytest.fixture
def text(data):
    return Calibration(str(data / "calibration" / "c4_200.jsonl"), num_samples=64, seq_len=64)


def test_choosing_within_the_walk_beats_cutting_by_taylor(stories, tmp_path):
    model, tokenizer = stories
    stories_text = tmp_path / "own.txt"
    start = torch.full((32, 1), 1)
    torch.manual_seed(0)
    told = model.generate(start, do_sample=True, max_new_tokens=128, pad_token_id=0)
    stories_text.write_text("\n".join(tokenizer.decode(row, skip_special_tokens=True) for row in told[:24]))
    held_out = told[24:, 1:]
    calibration = Calibration(str(stories_text), num_samples=32, seq_len=64)
    losses = {}
    for criterion, compensation in (("kronecker", Compensation()), ("taylor_first", None)):
        pruned = copy.deepcopy(model)
        chosen = PruningSettings(
            Budget(0.3, 1),
            criterion,
            protect_first=1,
            protect_last=0,
            calibration=calibration,
            compensation=compensation,
        )
        prune(pruned, tokenizer, chosen)
        with torch.no_grad():
            losses[criterion] = language_loss(pruned, held_out).mean().item()
    assert losses["kronecker"] < losses["taylor_first"] - 0.1


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_is_seen_to_add_where_its_update_is_less_than_its_type_rounds(
    architecture, model, tokens, dtype
):
    """Behind a stream that has grown large, as in deep models."""
    structure = discover(model)
    groups = [group for group in structure.groups if group.layer == 1 and group.kind in ("mlp", "attention")]
    modules = [p.module.removeprefix(f"{structure.layers[1]}.") for p in project(model, groups).values()]
    model.to(dtype)
    (call,) = layer_calls(model, structure.layers[:1], tokens, len(tokens))
    hidden = 30 * embed(model, structure.layers[0], tokens)
    passage = watch(model.get_submodule(structure.layers[1]), call, hidden, modules)
    update = (passage.hidden.double() - hidden.double()).norm()
    assert 0 < update < 0.5 * hidden.double().norm()
    assert is_residual(passage, hidden, modules) != (architecture in NOT_SEEN_TO_ADD)


def pruned_with(model, tokens, settings):
    dense = Dense.of(model, discover(model))
    kinds = [group for group in dense.structure.groups if group.kind == "mlp"]
    kept = {group.name: range(group.num_units // 2) for group in kinds}
    compensate(model, dense, kept, tokens, settings, silent)


def test_an_activation_that_overflows_on_the_walk_names_module_and_sample(model, tokens):
    """In any sample of the text, not only in those that gave gradients."""
    before, batches = model.get_submodule(discover(model).layers[1]), []

    def overflow(_module, _args, output):
        hidden = output if torch.is_tensor(output) else output[0]
        batches.append(len(hidden))
        if len(batches) > 1 and len(hidden) == 4:
            hidden[1] = torch.nan
        return output

    before.register_forward_hook(overflow)
    with pytest.raises(ValueError, match=r"activations or gradients at .* not finite on calibration sample"):
        pruned_with(model, tokens, Compensation(batch_size=4, epochs=0))


def test_a_layer_that_gives_nothing_is_left_as_it_is(tokens):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**LLAMA, pad_token_id=0)).eval()
    silent_mlp = model.model.layers[1].mlp
    silent_mlp.up_proj.weight.data.zero_()
    weight = silent_mlp.down_proj.weight.data.clone()
    pruned_with(model, tokens, Compensation(epochs=0))
    torch.testing.assert_close(silent_mlp.down_proj.weight.data, weight[:, :24])


def test_units_are_chosen_by_the_moments_that_the_refit_sees(model, tokens):
    """Where the projection has a bias, which takes up the means, by covariances."""
    structure = discover(model)
    (group,) = (group for group in structure.groups if group.kind == "mlp" and group.layer == 0)
    module = model.get_submodule(project(model, [group])[group.name].module)
    inputs, seen = [], []
    with torch.no_grad():
        handle = module.register_forward_pre_hook(lambda _module, args: inputs.append(args[0].flatten(0, -2)))
        model(tokens, use_cache=False)
        handle.remove()
    rows = inputs[0] - (0 if module.bias is None else inputs[0].mean(0))

    def choose(_projection, gram, _cross, _weight):
        seen.append(gram)
        return tuple(range(group.num_units // 2))

    compress(model, structure, [group], tokens, choose, Compensation(epochs=0))
    torch.testing.assert_close(seen[0], rows.T @ rows / len(rows), rtol=1e-3, atol=1e-6)
