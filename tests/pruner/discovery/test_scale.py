"""Layers that are alike are traced once, and that tells the same as tracing them all."""

import numpy as np
import pytest

from benchmarks.tiny_configs import tiny_inputs, tiny_model
from pruner.discovery import discover, discovering
from pruner.discovery.following import follow, follow_whole, twin_of
from pruner.discovery.repeating import repeated

NUM_LAYERS = 7
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * 4}
ALIKE = {
    "llama": {},
    "gpt2": {"n_layer": NUM_LAYERS},
    "bloom": {"n_layer": NUM_LAYERS},
    "falcon": {},
    "gpt_neox": {},
    "phi3": {},
    "mixtral": {},
    "olmo2": {},
    "deepseek_v3": {"first_k_dense_replace": 2},
    "gemma3_text": {"num_hidden_layers": 8, **ALTERNATING},
    "gpt_oss": {"num_hidden_layers": 8, **ALTERNATING},
}
TIED = {
    "gemma3n_text": {
        "num_hidden_layers": 8,
        "intermediate_size": [80] * 8,
        "activation_sparsity_pattern": [0.0] * 8,
        **ALTERNATING,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid", "hybrid", "hybrid", "hybrid"],
        "hybrid_layer_ids": [1, 2, 3, 4, 5],
        "num_hidden_layers": 6,
    },
}


def deep(name, changes):
    return tiny_model(name, "meta", **{"num_hidden_layers": NUM_LAYERS, **changes})


def said(structure):
    """All that a structure says, comparable."""
    return [
        (group.name, group.kind, group.layer, group.num_units, parts(group)) for group in structure.groups
    ]


def parts(group):
    found = []
    for each in (*group.slices, *group.counts, *group.norms, *group.arguments):
        fields = [getattr(each, field) for field in type(each).__slots__]
        found.append(tuple(value.tolist() if isinstance(value, np.ndarray) else value for value in fields))
    return sorted(found, key=str)


def traced_whole(monkeypatch, model, inputs):
    monkeypatch.setattr(discovering, "follow", lambda model, inputs: follow_whole(*twin_of(model), inputs))
    return discover(model, inputs)


@pytest.mark.parametrize("name", ALIKE)
def test_carried_groups_are_those_of_a_whole_trace(name, monkeypatch):
    model = deep(name, ALIKE[name])
    assert repeated(follow(model, tiny_inputs(model)).kinds)
    found = discover(model, tiny_inputs(model))
    whole = traced_whole(monkeypatch, model, tiny_inputs(model))
    assert said(found) == said(whole)
    assert found.layers == whole.layers
    assert set(found.refused) == set(whole.refused)


@pytest.mark.parametrize("name", TIED)
def test_what_crosses_layers_in_another_way_than_the_stream_is_traced_whole(name, monkeypatch):
    model = deep(name, TIED[name])
    assert not follow(model, tiny_inputs(model)).kinds
    assert said(discover(model)) == said(traced_whole(monkeypatch, model, tiny_inputs(model)))


@pytest.mark.parametrize("kind", ["hidden", "layer"])
@pytest.mark.parametrize("name", ["llama", "bloom", "olmo2"])
def test_kinds_that_span_layers_are_carried_too(name, kind, monkeypatch):
    model = deep(name, ALIKE[name])
    (found,) = discover(model, kinds=[kind]).groups
    monkeypatch.setattr(discovering, "follow", lambda model, inputs: follow_whole(*twin_of(model), inputs))
    (whole,) = discover(model, kinds=[kind]).groups
    assert (found.name, found.num_units, found.modules) == (whole.name, whole.num_units, whole.modules)
    assert parts(found) == parts(whole)
