"""A language model of nobody's: nothing of it is in transformers, and the project has no word for it."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pruner.discovery import discover
from pruner.groups import count_parameters, shapes_of
from pruner.surgery import remove, zero

WIDTH, HEADS, HEAD_DIM, CHANNELS, BRANCH, VOCABULARY, LAYERS = 24, 4, 6, 20, 10, 40, 3
IDS = torch.arange(9)[None] * 3 + 2


class Attention(nn.Module):
    """Packed projection (head, position in the head, query | key | value); a norm that all heads share."""

    def __init__(self, shared_norm):
        super().__init__()
        self.packed = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.norm = shared_norm
        self.num = HEADS

    def forward(self, x):
        packed = self.packed(x).view(*x.shape[:2], self.num, HEAD_DIM, 3).transpose(1, 2)
        query, key, value = self.norm(packed[..., 0]), self.norm(packed[..., 1]), packed[..., 2]
        scores = (query @ key.mT / HEAD_DIM**0.5).tril()
        return self.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class TwoBranches(nn.Module):
    """A gated branch and a plain one of other width, side by side into one projection."""

    def __init__(self):
        super().__init__()
        self.gated = nn.Linear(WIDTH, 2 * CHANNELS)
        self.plain = nn.Parameter(torch.empty(BRANCH, WIDTH))
        self.down = nn.Linear(CHANNELS + BRANCH, WIDTH, bias=False)
        self.widths = (CHANNELS, CHANNELS)

    def forward(self, x):
        gate, up = self.gated(x).chunk(2, dim=-1)
        plain = torch.relu(torch.einsum("btw,cw->btc", x, self.plain))
        return self.down(torch.cat([plain, torch.sigmoid(gate) * up], dim=-1))


class Layer(nn.Module):
    def __init__(self, shared_norm):
        super().__init__()
        self.before = nn.LayerNorm(WIDTH)
        self.mix = Attention(shared_norm)
        self.think = TwoBranches()

    def forward(self, x):
        x = x + self.mix(self.before(x))
        return x + self.think(self.before(x))


class OwnModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        shared_norm = nn.LayerNorm(HEAD_DIM)
        self.stack = nn.ModuleList(Layer(shared_norm) for _ in range(LAYERS))
        self.scores = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.scores.weight = self.words.weight

    def forward(self, input_ids):
        x = self.words(input_ids)
        for layer in self.stack:
            x = layer(x)
        return SimpleNamespace(logits=self.scores(x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    own = OwnModel().double().eval()
    for parameter in own.parameters():
        nn.init.normal_(parameter, std=0.4)
    return own


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_heads_and_both_branches_are_found_in_every_layer(model):
    structure = discover(model)
    assert structure.layers == tuple(f"stack.{number}" for number in range(LAYERS))
    inside = [group for group in structure.groups if group.kind in ("mlp", "attention")]
    found = sorted((group.layer, group.kind, group.num_units) for group in inside)
    expected = [[("attention", HEADS), ("mlp", BRANCH), ("mlp", CHANNELS)]] * LAYERS
    assert found == [(layer, *entry) for layer, entries in enumerate(expected) for entry in entries]


@pytest.mark.parametrize("kinds", [("attention",), ("mlp",), ("attention", "mlp")])
def test_removing_equals_zeroing(model, kinds):
    groups = [group for group in discover(model).groups if group.kind in kinds]
    kept = {group.name: range(0, group.num_units, 2) for group in groups}
    removed, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    remove(removed, groups, kept)
    zero(zeroed, groups, kept)
    assert not torch.equal(logits(zeroed), logits(model))
    torch.testing.assert_close(logits(removed), logits(zeroed), rtol=1e-9, atol=1e-9)
    remaining = sum(parameter.numel() for parameter in removed.parameters())
    assert remaining == count_parameters(shapes_of(model), groups, kept)


def test_its_own_number_of_heads_follows_the_cut(model):
    groups = [group for group in discover(model).groups if group.kind == "attention"]
    remove(model, groups, {group.name: range(group.layer + 1) for group in groups})
    assert [layer.mix.num for layer in model.stack] == [1, 2, 3]
    assert model.scores.weight is model.words.weight
