import re
from contextlib import nullcontext

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pruner.budget import Budget, decoder_parameters
from pruner.discovery import Structure, discover
from pruner.groups import count_parameters, shapes_of
from pruner.selection import allocate, check_apart, check_met, lowest, prunable

KINDS = ("mlp", "attention")


@pytest.fixture
def structure(groups):
    return Structure(tuple(groups), tuple(f"model.layers.{i}" for i in range(6)), ())


def reached(model, structure, removed):
    """Share of the decoder that is gone, counted on what is left."""
    shapes = {name: shape for name, shape in shapes_of(model).items() if name.startswith("model.layers.")}
    kept = {group.name: range(removed.get(group.name, 0), group.num_units) for group in structure.groups}
    return 1 - count_parameters(shapes, structure.groups, kept) / count_parameters(shapes, [], {})


@pytest.mark.parametrize("granularity", ["block", "global"])
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.2, 0.37, 0.5])
def test_the_budget_is_met_to_one_unit(tiny, structure, granularity, ratio):
    groups = prunable(structure, KINDS, 1, 1)
    scores = {group.name: torch.rand(group.num_units) for group in groups}
    removed = allocate(groups, shapes_of(tiny), structure.layers, Budget(ratio, 1), granularity, scores)
    step = 2 * 4 * 2 * 16 + 2 * 4 * 16 if granularity == "global" else 3 * 16
    total = decoder_parameters(shapes_of(tiny), structure.layers)
    assert abs(reached(tiny, structure, removed) - ratio) * total <= step / 2


def test_the_decoder_is_what_lies_inside_its_layers(tiny, structure):
    expected = sum(parameter.numel() for parameter in tiny.model.layers.parameters())
    assert decoder_parameters(shapes_of(tiny), structure.layers) == expected


@pytest.mark.parametrize("ratio", [0.1, 0.23, 0.5])
def test_without_protection_all_layers_stay_alike(tiny, structure, ratio):
    groups = prunable(structure, KINDS, 0, 0)
    removed = allocate(groups, shapes_of(tiny), structure.layers, Budget(ratio, 1))
    for kind in KINDS:
        assert len({removed[group.name] for group in groups if group.kind == kind}) == 1
    total = decoder_parameters(shapes_of(tiny), structure.layers)
    assert abs(reached(tiny, structure, removed) - ratio) * total <= 6 * 3 * 16 / 2


def test_protected_layers_lose_nothing_and_the_others_equally(tiny, structure):
    groups = prunable(structure, KINDS, 2, 1)
    removed = allocate(groups, shapes_of(tiny), structure.layers, Budget(0.2, 1))
    assert {group.layer for group in groups} == {2, 3, 4}
    counts = [removed[group.name] for group in groups if group.kind == "mlp"]
    assert max(counts) - min(counts) <= 1
    assert min(counts) > 0


@pytest.mark.parametrize("step", [4, 8])
def test_widths_become_multiples_and_the_budget_is_met_to_one_step(tiny, structure, step):
    groups = prunable(structure, KINDS, 1, 1)
    removed = allocate(groups, shapes_of(tiny), structure.layers, Budget(0.2, step))
    assert all((24 - removed[group.name]) % step == 0 for group in groups if group.kind == "mlp")
    total = decoder_parameters(shapes_of(tiny), structure.layers)
    assert abs(reached(tiny, structure, removed) - 0.2) * total <= step * 3 * 16 / 2


def test_attention_gives_the_whole_units_that_fit_in_its_share(tiny, structure):
    groups = prunable(structure, KINDS, 0, 0)
    for ratio, expected in ((0.45, 0), (0.52, 1)):
        removed = allocate(groups, shapes_of(tiny), structure.layers, Budget(ratio, 1))
        assert {removed[group.name] for group in groups if group.kind == "attention"} == {expected}


def test_global_takes_the_lowest_score_per_parameter(tiny, structure):
    groups = prunable(structure, KINDS, 0, 0)
    scores = {group.name: torch.ones(group.num_units) * 1e3 for group in groups}
    scores["model.layers.3.mlp"] = torch.arange(24.0)
    removed = allocate(groups, shapes_of(tiny), structure.layers, Budget(0.02, 1), "global", scores)
    assert removed.pop("model.layers.3.mlp") > 0
    assert not any(removed.values())


def test_a_budget_that_protection_forbids_says_what_can_be_reached(tiny, structure):
    groups = prunable(structure, KINDS, 2, 2)
    with pytest.raises(ValueError, match=r"0.9 of the decoder .* give at most 0\.\d+; protect fewer layers"):
        allocate(groups, shapes_of(tiny), structure.layers, Budget(0.9, 1))


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 20])
def test_a_ratio_outside_zero_to_one_is_refused(ratio):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got .*write 0.2"):
        Budget(ratio)


def test_an_unknown_granularity_is_answered_with_the_known(tiny, structure):
    with pytest.raises(ValueError, match="no granularity 'row'; there are block, global"):
        allocate(structure.groups, shapes_of(tiny), structure.layers, Budget(), "row")


def test_the_units_of_lowest_score_go():
    assert lowest(torch.tensor([0.3, 0.1, 0.1, 0.9]), 2) == (0, 3)
    assert lowest(torch.tensor([0.3, 0.1, 0.1, 0.9]), 1) == (0, 2, 3)


@pytest.mark.parametrize("share", [0.6, 0.8, 1.0])
def test_a_target_in_parameters_is_kept_and_met_to_one_channel(tiny, structure, share):
    shapes = shapes_of(tiny)
    whole = sum(parameter.numel() for parameter in tiny.parameters())
    groups = prunable(structure, KINDS, 0, 1)
    budget = Budget(round_to=1, target_parameters=round(share * whole))
    removed = allocate(groups, shapes, structure.layers, budget)
    kept = {group.name: range(removed[group.name], group.num_units) for group in groups}
    left = count_parameters(shapes, structure.groups, kept)
    assert 0 <= budget.target_parameters - left < 3 * 16


def test_a_target_in_bytes_is_one_in_parameters_of_the_given_type(tiny, structure):
    groups = prunable(structure, KINDS, 0, 1)
    whole = sum(parameter.numel() for parameter in tiny.parameters())
    wanted = Budget(round_to=1, target_parameters=whole * 3 // 4)
    in_bytes = Budget(round_to=1, target_bytes=(whole * 3 // 4) // 2, bytes_per_parameter=0.5)
    removed = [allocate(groups, shapes_of(tiny), structure.layers, budget) for budget in (wanted, in_bytes)]
    assert removed[0] == removed[1]


def test_a_target_above_the_model_is_refused(tiny, structure):
    groups = prunable(structure, KINDS, 0, 0)
    with pytest.raises(ValueError, match="the budget allows 1,000,000,000 parameters, and the model has"):
        allocate(groups, shapes_of(tiny), structure.layers, Budget(target_parameters=10**9))


@pytest.mark.parametrize(
    "targets", [{"target_parameters": 0}, {"target_bytes": 10, "target_macs": 10}, {"bytes_per_parameter": 0}]
)
def test_one_target_may_be_given_and_is_above_nothing(targets):
    with pytest.raises(ValueError, match="of the budget's targets one may be given, above 0"):
        Budget(**targets)


@pytest.mark.parametrize("granularity", ["block", "global"])
def test_what_stays_divides_by_the_gpus_that_share_a_layer(tiny, structure, granularity):
    groups = prunable(structure, KINDS, 1, 1)
    scores = {group.name: torch.rand(group.num_units) for group in groups}
    budget = Budget(0.2, 3, tensor_parallel=2)
    removed = allocate(groups, shapes_of(tiny), structure.layers, budget, granularity, scores)
    assert any(removed.values())
    for group in groups:
        assert (group.num_units - removed[group.name]) % (6 if group.kind == "mlp" else 2) == 0


def test_gpus_that_cannot_share_a_block_are_refused_with_its_name(tiny, structure):
    with pytest.raises(ValueError, match=r"model.layers.0.self_attn has 2 units, which 4 GPUs"):
        allocate(structure.groups, shapes_of(tiny), structure.layers, Budget(0.2, tensor_parallel=4))


@given(
    ratio=st.floats(0.01, 0.6),
    round_to=st.integers(1, 30),
    protected=st.sampled_from([0, 1]),
    kinds=st.sampled_from([("mlp",), KINDS]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_ratio_is_met_or_the_nearest_that_can_be_are_named(
    tiny, structure, ratio, round_to, protected, kinds
):
    """To a tenth; what is named instead is met to the digits that are shown, with nothing nearer refused."""
    groups, shapes = prunable(structure, kinds, protected, protected), shapes_of(tiny)

    def share(ratio):
        budget = Budget(ratio, round_to)
        check_met(groups, shapes, structure.layers, budget)
        return reached(tiny, structure, allocate(groups, shapes, structure.layers, budget))

    try:
        assert share(ratio) == pytest.approx(ratio, rel=0.101)
    except ValueError as error:
        if "give at most" in str(error):
            return
        named = re.search(r"the nearest are (.*): ask for", str(error))[1].split(" and ")
        assert named
        for other in map(float, named):
            assert abs(other - ratio) > 0.1 * min(other, ratio) - 1e-4
            assert share(other) == pytest.approx(other, abs=2e-4)


@given(
    share=st.floats(0.5, 0.99),
    round_to=st.integers(1, 8),
    tensor_parallel=st.sampled_from([1, 2]),
    granularity=st.sampled_from(["block", "global"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_left_stays_inside_a_target(tiny, structure, share, round_to, tensor_parallel, granularity):
    groups, shapes = prunable(structure, ("mlp",), 0, 0), shapes_of(tiny)
    target = round(share * count_parameters(shapes, [], {}))
    scores = {group.name: torch.rand(group.num_units) for group in groups}
    budget = Budget(round_to=round_to, target_parameters=target, tensor_parallel=tensor_parallel)
    try:
        removed = allocate(groups, shapes, structure.layers, budget, granularity, scores)
    except ValueError:
        assume(False)
    kept = {group.name: range(removed[group.name], group.num_units) for group in groups}
    assert count_parameters(shapes, structure.groups, kept) <= target


def test_a_threshold_steps_over_what_is_too_coarse_for_the_rest(tiny, structure):
    """Attention that costs nothing, in units too large for a small budget: channels give it."""
    groups = prunable(structure, KINDS, 1, 1)
    scores = {
        group.name: torch.ones(group.num_units) * (group.kind == "mlp") + torch.arange(group.num_units) * 1e-6
        for group in groups
    }
    removed = allocate(groups, shapes_of(tiny), structure.layers, Budget(0.01, 1), "global", scores)
    assert reached(tiny, structure, removed) == pytest.approx(0.01, abs=0.003)
    assert not any(removed[group.name] for group in groups if group.kind == "attention")


def test_rounding_that_leaves_too_little_to_take_is_named(tiny, structure):
    groups = prunable(structure, ["mlp"], 0, 0)
    with pytest.raises(ValueError, match=r"protect fewer layers, lower budget\.round_to, or ask"):
        allocate(groups, shapes_of(tiny), structure.layers, Budget(0.5, round_to=20))


def test_kinds_whose_units_are_parts_of_one_another_are_refused(tiny):
    groups = discover(tiny, kinds=("attention", "query", "mlp")).groups
    check_apart([group for group in groups if group.kind != "query"])
    with pytest.raises(ValueError, match=r"kinds attention and query take the same parts of .*: name one"):
        check_apart(groups)


def test_a_ratio_and_a_target_are_not_both_given_and_neither_is_a_fifth(tiny, structure):
    with pytest.raises(ValueError, match=r"both say how much goes; .* set budget.ratio to null"):
        Budget(0.3, target_bytes=10)
    decoder = decoder_parameters(shapes_of(tiny), structure.layers)
    assert Budget().asked(shapes_of(tiny), structure.layers) == pytest.approx(0.2 * decoder)
    assert Budget(target_parameters=1).share is None


@pytest.mark.parametrize("granularity", ["block", "global"])
def test_widths_are_what_every_unprotected_layer_keeps(tiny, structure, granularity):
    groups = prunable(structure, KINDS, 1, 1)
    budget = Budget(widths={"mlp": 7, "attention": 1})
    removed = allocate(groups, shapes_of(tiny), structure.layers, budget, granularity)
    left = {(group.kind, group.num_units - removed[group.name]) for group in groups}
    assert left == {("mlp", 7), ("attention", 1)}


def test_a_kind_without_a_width_keeps_all(tiny, structure):
    groups = prunable(structure, KINDS, 1, 1)
    removed = allocate(groups, shapes_of(tiny), structure.layers, Budget(widths={"mlp": 24}))
    assert not any(removed.values())


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"mlp": 25}, r"keeps 25 units of 'mlp'.* at most 2 of attention, 24 of mlp: ask for fewer"),
        ({"expert": 1}, r"keeps 1 units of 'expert'.*name another kind"),
    ],
)
def test_widths_that_no_layer_has_are_refused_with_what_there_is(tiny, structure, widths, message):
    with pytest.raises(ValueError, match=message):
        allocate(prunable(structure, KINDS, 1, 1), shapes_of(tiny), structure.layers, Budget(widths=widths))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"widths": {"mlp": 9}, "tensor_parallel": 2}, r"leaves 9 units of .*mlp.* for a multiple of 2"),
        ({"widths": {"mlp": 8}, "tensor_parallel": 3}, r"leaves 2 units of .*attn.* for a multiple of 3"),
        ({"widths": {"mlp": 9}, "round_to": 4}, r"leaves 9 units of .*mlp.* for a multiple of 4"),
        ({"widths": {"mlp": 8}, "tensor_parallel": 2, "round_to": 4}, None),
        ({"widths": {"attention": 1}, "round_to": 5}, None),
    ],
)
def test_widths_are_multiples_of_what_is_asked_for(tiny, structure, asked, message):
    """Where nothing goes, the width stays what it is, but GPUs still share it."""
    groups, shapes = prunable(structure, KINDS, 1, 1), shapes_of(tiny)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        allocate(groups, shapes, structure.layers, Budget(**asked))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ratio": 0.2, "widths": {"mlp": 8}}, "leave one out"),
        ({"target_bytes": 9, "widths": {"mlp": 8}}, "leave one out"),
        ({"widths": {"mlp": 0}}, r"at least 1, such as \{mlp: 1024"),
        ({"widths": {}}, r"at least 1, such as \{mlp: 1024"),
    ],
)
def test_widths_stand_alone_and_leave_something(asked, message):
    with pytest.raises(ValueError, match=message):
        Budget(**asked)
