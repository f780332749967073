"""LLM-Pruner's published runs, at full size and without storage: a quarter of layers 4 to 29."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from pruner.discovery import discover
from pruner.groups import count_parameters, shapes_of
from pruner.surgery import remove
from tests.published import published_config

FIRST, LAST = 4, 29
PUBLISHED = {
    "llama-7b": (6_738_415_616, 5_422_977_024),  # Ma et al. 2023, `--pruning_ratio 0.25`
    "llama-3-8b": (8_030_261_248, 6_612_586_496),  # whole key-value groups, with their query heads
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_quarter_of_the_published_layers_leaves_the_published_parameters(name):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(published_config(name), dtype=torch.float16)
    dense, pruned = PUBLISHED[name]
    groups = [
        group
        for group in discover(model).groups
        if group.kind in ("mlp", "attention") and FIRST <= group.layer <= LAST
    ]
    kept = {group.name: range(group.num_units // 4, group.num_units) for group in groups}
    assert count_parameters(shapes_of(model), groups, {}) == dense
    assert count_parameters(shapes_of(model), groups, kept) == pruned
    remove(model, groups, kept)
    assert sum(parameter.numel() for parameter in model.parameters()) == pruned
