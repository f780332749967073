"""What groups promise: parameters counted without cutting, whatever is cut together."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pruner.groups import Group, Slice, count_parameters, shapes_of, unit_parameters, with_shares
from pruner.surgery import remove

SHAPES = {"first": (6, 4), "second": (4, 6), "other": (3,)}


def channels(num_units=6, width=1, name="mlp"):
    """Rows of "first" and columns of "second", `width` neighbours to a unit."""
    index = np.arange(num_units * width).reshape(num_units, width)
    return Group(
        name, "mlp", 0, num_units, (Slice("first", 0, index, False), Slice("second", 1, index, True))
    )


def stream():
    """Columns of "first" and rows of "second": the other axes of the same parameters."""
    index = np.arange(4)[:, None]
    return Group(
        "stream", "hidden", None, 4, (Slice("first", 1, index, True), Slice("second", 0, index, False))
    )


class Weights(nn.Module):
    """Real parameters of these shapes."""

    def __init__(self):
        super().__init__()
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))


kept_units = st.fixed_dictionaries(
    {
        "mlp": st.sets(st.integers(0, 5), min_size=1).map(sorted),
        "pairs": st.sets(st.integers(0, 2), min_size=1).map(sorted),
        "stream": st.sets(st.integers(0, 3), min_size=1).map(sorted),
    }
)


@given(kept_units)
def test_what_is_counted_is_what_remains_even_where_groups_overlap(kept):
    groups = [channels(), channels(3, 2, "pairs"), stream()]
    model = Weights()
    remove(model, groups, kept)
    remaining = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(SHAPES, groups, kept) == remaining


def test_a_group_that_kept_does_not_name_keeps_everything():
    assert count_parameters(SHAPES, [channels(), stream()], {}) == 6 * 4 + 4 * 6 + 3
    assert count_parameters(SHAPES, [channels(), stream()], {"mlp": range(6)}) == 6 * 4 + 4 * 6 + 3


@pytest.mark.parametrize("group", [channels(), channels(3, 2), stream()])
def test_every_unit_of_a_group_saves_the_same(group):
    everything = count_parameters(SHAPES, [group], {})
    for unit in range(group.num_units):
        others = [other for other in range(group.num_units) if other != unit]
        assert everything - count_parameters(SHAPES, [group], {group.name: others}) == unit_parameters(
            SHAPES, group
        )


def test_units_that_share_an_axis_are_counted_once():
    fine, coarse = channels(), channels(3, 2, "pairs")
    both = count_parameters(SHAPES, [fine, coarse], {"mlp": range(1, 6), "pairs": [1, 2]})
    assert both == count_parameters(SHAPES, [coarse], {"pairs": [1, 2]})


def test_a_layer_that_goes_takes_its_parameters_and_no_other_ones():
    shapes = {"layers.1.weight": (2, 3), "layers.10.weight": (2, 3), "head.weight": (5,)}
    layers = Group("layers", "layer", None, 2, (), modules=("layers.1", "layers.10"))
    assert count_parameters(shapes, [layers], {"layers": [1]}) == 6 + 5


def test_tied_parameters_are_listed_once():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False))
    model[1].weight = model[0].weight
    assert shapes_of(model) == {"0.weight": (4, 3)}


def test_a_group_names_the_others_whose_parameters_it_shares():
    def group(name, kind, *parameters, modules=()):
        slices = tuple(Slice(each, 0, np.arange(4)[:, None], reads=False) for each in parameters)
        return Group(name, kind, None, 4, slices, modules=modules)

    heads, queries = group("heads", "attention", "l.0.q", "l.0.k"), group("queries", "query", "l.0.q")
    channels, layers = group("mlp", "mlp", "l.1.up"), group("layers", "layer", modules=("l.0", "l.1"))
    shares = {each.name: set(each.shares) for each in with_shares([heads, queries, channels, layers])}
    assert shares == {
        "heads": {"queries", "layers"},
        "queries": {"heads", "layers"},
        "mlp": {"layers"},
        "layers": {"heads", "queries", "mlp"},
    }
