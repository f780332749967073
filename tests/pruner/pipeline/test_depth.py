"""Whole layers by measured effect, alone and together with widths."""

import copy

import pytest
import torch

from benchmarks.tiny_configs import tiny_model
from pruner.budget import Budget
from pruner.bypass import bypassed, bypasses
from pruner.calibration import Calibration
from pruner.checkpoint import load_model, save_model
from pruner.compensation import Compensation
from pruner.discovery import discover
from pruner.groups import count_parameters, shapes_of
from pruner.importance.backward import language_loss
from pruner.importance.layers import least_missed
from pruner.pipeline import PruningSettings, prune
from pruner.pipeline.preview import preview
from pruner.pipeline.walk import compress
from pruner.plan import PruningPlan
from pruner.projections import projection_of
from pruner.surgery import remove

IDS = torch.arange(40).view(4, 10) + 3
NUM_LAYERS = 6
ARCHITECTURES = {
    "llama": {"num_hidden_layers": NUM_LAYERS},
    "gpt2": {"n_layer": NUM_LAYERS},
    "bloom": {"n_layer": NUM_LAYERS},
    "olmo2": {"num_hidden_layers": NUM_LAYERS},
    "gpt_neox": {"num_hidden_layers": NUM_LAYERS},
    "gemma3_text": {
        "num_hidden_layers": NUM_LAYERS,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"] * 2,
    },
}


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return tiny_model(request.param, **ARCHITECTURES[request.param])


def layers(model):
    (group,) = [group for group in discover(model, kinds=["layer"]).groups if group.kind == "layer"]
    return group


def removed(model, group, stay):
    shorter = copy.deepcopy(model)
    remove(shorter, [group], {group.name: stay})
    return shorter


@torch.no_grad()
def loss(model):
    return language_loss(model, IDS).mean().item()


@torch.no_grad()
def logits(model):
    return model(IDS, use_cache=False).logits


def test_a_bypassed_layer_is_a_removed_one_until_the_bypass_ends(model):
    group, dense = layers(model), logits(model)
    shorter = copy.deepcopy(model)
    remove(shorter, [group], {group.name: [0, 2, 5]})
    gone = bypasses(model, [group.modules[unit] for unit in (1, 3, 4)], IDS)
    with bypassed(model, gone):
        assert torch.equal(logits(model), logits(shorter))
    assert torch.equal(logits(model), dense)


def test_the_layers_that_go_are_those_whose_removal_raises_the_loss_least(model):
    group = layers(model)
    stay, order = list(range(NUM_LAYERS)), []
    for _ in range(2):
        rises = {layer: loss(removed(model, group, [n for n in stay if n != layer])) for layer in stay}
        order.append(min(rises, key=rises.get))
        stay.remove(order[-1])
    gone, measured = least_missed(model, group, 2, range(NUM_LAYERS), IDS, batch_size=3)
    assert gone == tuple(n for n in range(NUM_LAYERS) if n not in stay)
    last = [layer for layer in range(NUM_LAYERS) if layer in stay or layer == order[1]]
    before = loss(removed(model, group, last))
    assert measured[stay].tolist() == pytest.approx([rises[layer] - before for layer in stay], abs=1e-5)


def test_a_protected_layer_stays(model):
    group = layers(model)
    gone, _ = least_missed(model, group, 1, (2, 3), IDS)
    assert gone[0] in (2, 3)


def test_a_loss_that_is_not_finite_is_refused(model):
    group = layers(model)
    with torch.no_grad():
        next(model.get_submodule(group.modules[2]).parameters()).fill_(torch.inf)
    with pytest.raises(ValueError, match=r"loss of the calibration text is (nan|inf) without .*bfloat16"):
        least_missed(model, group, 1, range(NUM_LAYERS), IDS)


def test_behind_a_layer_that_goes_the_walk_refits_the_shorter_model_to_the_dense_one(model):
    found = discover(model, kinds=("attention", "layer"))
    group, (attention,) = layers(model), [each for each in found.groups if each.layer == 3]
    shorter, name = removed(model, group, [0, 2, 3, 4, 5]), projection_of(model, attention).module
    entered, left, seen = [], [], []
    reader = shorter.get_submodule(name.replace(group.modules[3], group.modules[2]))
    reader.register_forward_pre_hook(lambda _module, args: entered.append(args[0].flatten(0, -2)))
    hook = model.get_submodule(name).register_forward_hook(lambda *args: left.append(args[2].flatten(0, -2)))
    logits(shorter), logits(model)
    hook.remove()

    def choose(_projection, gram, cross, _weight):
        seen.append((gram.clone(), cross.clone()))
        return tuple(range(1, attention.num_units))

    compress(model, found, [attention], IDS, choose, Compensation(drift=0, batch_size=2), dropped=[1])
    inputs, targets = entered[0], left[0]
    if reader.bias is not None:
        inputs, targets = inputs - inputs.mean(0), targets - targets.mean(0)
    for mean, expected in zip(seen[0], (inputs.T @ inputs, inputs.T @ targets)):
        torch.testing.assert_close(mean.to(expected), expected / IDS.numel(), rtol=1e-4, atol=1e-5)


def test_a_layer_with_a_forward_of_its_own_gets_it_back():
    """As accelerate's hooks leave one on each module."""
    model = tiny_model("llama")
    name = discover(model).layers[1]
    layer = model.get_submodule(name)
    layer.forward = own = layer.forward
    with bypassed(model, bypasses(model, [name], IDS)):
        assert layer.forward is not own
    assert layer.forward is own


@pytest.fixture
def stories(data):
    from pruner.checkpoint import load_tokenizer

    return load_model(data / "stories260K"), load_tokenizer(data / "stories260K")


@pytest.fixture
def settings(data):
    def make(budget, **others):
        text = Calibration(str(data / "calibration" / "c4_200.jsonl"), num_samples=32, seq_len=64)
        values = {"protect_first": 1, "protect_last": 1, **others}
        return PruningSettings(budget, calibration=text, **values)

    return make


@pytest.mark.parametrize("criterion", ["kronecker", "taylor_first"])
def test_layers_and_widths_together_meet_the_budget_and_replay_gives_the_same_model(
    stories, settings, data, tmp_path, criterion
):
    dense, tokenizer = stories
    pruned = copy.deepcopy(dense)
    asked = settings(Budget(0.4, 1, layers=1), criterion=criterion)
    plan = prune(pruned, tokenizer, asked)
    assert plan.budget["reached_ratio"] == pytest.approx(0.4, abs=0.01)
    assert plan.dropped == (2,), "layers behind it lose units too"
    assert pruned.config.num_hidden_layers == dense.config.num_hidden_layers - 1
    kept = count_parameters(
        shapes_of(dense), discover(dense, kinds=["mlp", "attention", "layer"]).groups, plan.kept
    )
    assert kept == plan.budget["parameters"] == sum(p.numel() for p in pruned.parameters())
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json").dropped == plan.dropped
    replayed = copy.deepcopy(dense)
    prune(replayed, tokenizer, settings(Budget(), plan=str(tmp_path / "plan.json")))
    assert torch.equal(logits(replayed), logits(pruned))
    again = preview(str(data / "stories260K"), asked, PruningPlan.load(tmp_path / "plan.json"))
    assert again.dropped == plan.dropped
    assert criterion == "kronecker" or again.kept == plan.kept, "greedy costs are not those of one moment"


@pytest.mark.parametrize("refit", [None, Compensation()], ids=["removed", "and refitted"])
def test_units_are_scored_on_the_model_without_the_layers(stories, settings, refit):
    model, tokenizer = stories
    shorter, wants = copy.deepcopy(model), {"criterion": "gate_fisher", "compensation": refit}
    stays = prune(shorter, tokenizer, settings(Budget(0.2, layers=1))).kept["layers"]
    open_to_all = settings(Budget(0.1, 1), **wants, protect_first=0, protect_last=0)
    scored = prune(shorter, tokenizer, open_to_all).groups
    plan = prune(model, tokenizer, settings(Budget(0.3, 1, layers=1), **wants))
    names = {f"model.layers.{n}.mlp": f"model.layers.{number}.mlp" for number, n in enumerate(stays)}
    compared = {ours: theirs for ours, theirs in names.items() if ours in plan.groups}
    assert len(compared) == 2
    for ours, theirs in compared.items():
        assert plan.groups[ours].scores == pytest.approx(scored[theirs].scores, rel=1e-3)


def test_depth_alone_leaves_a_stock_class(stories, settings, tmp_path):
    model, tokenizer = stories
    plan = prune(model, tokenizer, settings(Budget(layers=2), kinds=()))
    assert set(plan.groups) == {"layers"}
    assert plan.compensation == {}  # there is nothing to refit
    assert plan.budget["ratio"] is None
    assert plan.budget["reached_ratio"] == pytest.approx(2 / 5)
    save_model(model, tokenizer, tmp_path / "pruned")
    loaded = load_model(tmp_path / "pruned")
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert "auto_map" not in loaded.config.to_dict()
    assert torch.equal(logits(loaded), logits(model))


def test_layers_and_widths_saved_together_load_as_they_were(stories, settings, tmp_path):
    model, tokenizer = stories
    prune(model, tokenizer, settings(Budget(0.3, 1, layers=1), protect_first=2))
    save_model(model, tokenizer, tmp_path / "pruned")
    assert torch.equal(logits(load_model(tmp_path / "pruned")), logits(model))


@pytest.mark.parametrize(
    ("budget", "others", "message"),
    [
        (
            Budget(0.2, layers=2),
            {},
            r"2 layers of budget\.layers are 0\.4 of the decoder, more than the 0\.2",
        ),
        (Budget(0.9, layers=1), {}, r"of the decoder cannot be removed"),
        (Budget(0.9, layers=3), {}, r"leave none unprotected whose widths could give"),
        (Budget(0.9, layers=4), {}, r"asks for 4 decoder layers, and 3 of 5 are not protected"),
        (Budget(0.9, layers=5), {"protect_first": 0, "protect_last": 0}, r"one must stay"),
    ],
)
def test_what_layers_cannot_give_is_refused_before_anything_is_measured(
    stories, settings, budget, others, message
):
    model, tokenizer = stories
    before, passes = shapes_of(model), []
    model.register_forward_hook(lambda module, *_: passes.append(1) if module is model else None)
    with pytest.raises(ValueError, match=message):
        prune(model, tokenizer, settings(budget, **others))
    assert shapes_of(model) == before
    assert not passes
    with pytest.raises(ValueError, match=r"budget\.layers counts"):
        Budget(layers=-1)


@pytest.mark.parametrize("ratio", [0.2, 0.2003])
def test_layers_that_all_but_fill_the_budget_are_enough(stories, settings, ratio):
    plan = prune(*stories, settings(Budget(ratio, 1, layers=1)))
    assert plan.budget["reached_ratio"] == pytest.approx(0.2)
    assert len(plan.dropped) == 1
