"""Baichuan-13B comes with code of its own; discovery follows it like any other."""

import copy

import pytest
import torch
from torch import nn

from pruner.discovery import discover
from pruner.surgery import remove, zero
from tests.baichuan import Baichuan13B

WIDTH, HEADS, CHANNELS, LAYERS, VOCABULARY = 30, 5, 44, 3, 50
IDS = torch.arange(9)[None] * 2 + 3


@pytest.fixture(params=["before its first run", "after it"])
def model(request):
    torch.manual_seed(0)
    own = Baichuan13B(WIDTH, HEADS, CHANNELS, LAYERS, VOCABULARY).double().eval()
    for parameter in own.parameters():
        nn.init.normal_(parameter, std=0.4)
    if request.param == "after it":  # which leaves a table of slopes behind, one for all layers
        logits(own)
    return own


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_heads_and_channels_are_found_in_every_layer(model):
    groups = [group for group in discover(model).groups if group.kind in ("mlp", "attention")]
    sizes = {(group.layer, group.kind): group.num_units for group in groups}
    expected = {"attention": HEADS, "mlp": CHANNELS}
    assert sizes == {(layer, kind): size for layer in range(LAYERS) for kind, size in expected.items()}


def test_surviving_heads_keep_their_own_slopes(model):
    groups = [group for group in discover(model).groups if group.kind == "attention"]
    kept = {groups[0].name: [1, 4], groups[2].name: [0, 2, 3]}
    removed, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    remove(removed, groups, kept)
    zero(zeroed, groups, kept)
    assert not torch.equal(logits(zeroed), logits(model))
    torch.testing.assert_close(logits(removed), logits(zeroed), rtol=1e-9, atol=1e-9)


def test_heads_and_channels_go_together_and_once_more(model):
    for _ in range(2):
        groups = [group for group in discover(model).groups if group.kind in ("mlp", "attention")]
        kept = {group.name: range(0, group.num_units, 2) for group in groups}
        reference = copy.deepcopy(model)
        zero(reference, groups, kept)
        remove(model, groups, kept)
        torch.testing.assert_close(logits(model), logits(reference), rtol=1e-9, atol=1e-9)
    assert [layer.self_attn.num_heads for layer in model.model.layers] == [2] * LAYERS
