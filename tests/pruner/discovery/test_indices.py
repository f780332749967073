"""The slices that discovery finds are the architecture's own, index by index, as its code lays them out."""

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import pytest

from benchmarks.tiny_configs import tiny_model
from pruner.discovery import discover

HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 48, 6, 3, 8
Rows = list[list[int]]
Places = dict[tuple[str, int], Rows]


def whole(count: int, width: int = 1, offset: int = 0) -> Rows:
    """Unit u owns `width` neighbours."""
    return [list(range(offset + u * width, offset + (u + 1) * width)) for u in range(count)]


def joined(*parts: Rows) -> Rows:
    """Unit u owns what it owns of each part."""
    return [list(chain(*rows)) for rows in zip(*parts)]


def gated(mlp: str, channels: int) -> Places:
    places = {(f"{mlp}.{name}.weight", 0): whole(channels) for name in ("gate_proj", "up_proj")}
    return places | {(f"{mlp}.down_proj.weight", 1): whole(channels)}


def llama(layer: str) -> Iterator[Places]:
    """Key-value group g serves query heads 2 g and 2 g + 1."""
    attention = f"{layer}.self_attn"
    queries, values = whole(KV_HEADS, 2 * HEAD_DIM), whole(KV_HEADS, HEAD_DIM)
    yield {
        (f"{attention}.q_proj.weight", 0): queries,
        (f"{attention}.k_proj.weight", 0): values,
        (f"{attention}.v_proj.weight", 0): values,
        (f"{attention}.o_proj.weight", 1): queries,
    }
    yield gated(f"{layer}.mlp", 80)


def phi3(layer: str) -> Iterator[Places]:
    """Rows of qkv_proj: all queries, all keys, all values; of gate_up_proj: all gates, all ups."""
    queries = whole(KV_HEADS, 2 * HEAD_DIM)
    keys, values = (whole(KV_HEADS, HEAD_DIM, offset) for offset in (HIDDEN, HIDDEN + KV_HEADS * HEAD_DIM))
    yield {
        (f"{layer}.self_attn.qkv_proj.weight", 0): joined(queries, keys, values),
        (f"{layer}.self_attn.o_proj.weight", 1): queries,
    }
    yield {
        (f"{layer}.mlp.gate_up_proj.weight", 0): joined(whole(80), whole(80, offset=80)),
        (f"{layer}.mlp.down_proj.weight", 1): whole(80),
    }


def interleaved(attention: str, fused: str, output: str) -> Places:
    """Rows of the fused projection: (head, query | key | value, position in the head)."""
    rows = whole(HEADS, 3 * HEAD_DIM)
    return {
        (f"{attention}.{fused}.weight", 0): rows,
        (f"{attention}.{fused}.bias", 0): rows,
        (f"{attention}.{output}.weight", 1): whole(HEADS, HEAD_DIM),
    }


def plain(mlp: str, first: str, second: str, channels: int) -> Places:
    return {
        (f"{mlp}.{first}.weight", 0): whole(channels),
        (f"{mlp}.{first}.bias", 0): whole(channels),
        (f"{mlp}.{second}.weight", 1): whole(channels),
    }


def bloom(layer: str) -> Iterator[Places]:
    yield interleaved(f"{layer}.self_attention", "query_key_value", "dense")
    yield plain(f"{layer}.mlp", "dense_h_to_4h", "dense_4h_to_h", 4 * HIDDEN)


def gpt_neox(layer: str) -> Iterator[Places]:
    yield interleaved(f"{layer}.attention", "query_key_value", "dense")
    yield plain(f"{layer}.mlp", "dense_h_to_4h", "dense_4h_to_h", 80)


def gpt2(layer: str) -> Iterator[Places]:
    """`Conv1D` holds (in, out); columns of c_attn: all queries, all keys, all values."""
    columns = joined(*(whole(HEADS, HEAD_DIM, part * HIDDEN) for part in range(3)))
    yield {
        (f"{layer}.attn.c_attn.weight", 1): columns,
        (f"{layer}.attn.c_attn.bias", 0): columns,
        (f"{layer}.attn.c_proj.weight", 0): whole(HEADS, HEAD_DIM),
    }
    yield {
        (f"{layer}.mlp.c_fc.weight", 1): whole(4 * HIDDEN),
        (f"{layer}.mlp.c_fc.bias", 0): whole(4 * HIDDEN),
        (f"{layer}.mlp.c_proj.weight", 0): whole(4 * HIDDEN),
    }


def falcon(layer: str) -> Iterator[Places]:
    """Rows of the fused projection: (key-value group, its queries | key | value, position in the head)."""
    yield {
        (f"{layer}.self_attention.query_key_value.weight", 0): whole(KV_HEADS, 4 * HEAD_DIM),
        (f"{layer}.self_attention.dense.weight", 1): whole(KV_HEADS, 2 * HEAD_DIM),
    }
    yield {
        (f"{layer}.mlp.dense_h_to_4h.weight", 0): whole(80),
        (f"{layer}.mlp.dense_4h_to_h.weight", 1): whole(80),
    }


def mixtral(layer: str) -> Iterator[Places]:
    """A channel goes from all experts at once; their gates and ups lie one after the other."""
    yield next(llama(layer))
    yield {
        (f"{layer}.mlp.experts.gate_up_proj", 1): joined(whole(80), whole(80, offset=80)),
        (f"{layer}.mlp.experts.down_proj", 2): whole(80),
    }


LAYOUTS: dict[str, tuple[Callable[[str], Iterator[Places]], dict[str, object]]] = {
    "llama": (llama, {"head_dim": HEAD_DIM}),
    "phi3": (phi3, {}),
    "bloom": (bloom, {}),
    "gpt_neox": (gpt_neox, {}),
    "gpt2": (gpt2, {}),
    "falcon": (falcon, {"new_decoder_architecture": True}),
    "mixtral": (mixtral, {}),
}


def found_in(group) -> Places:
    """The slices of a group, indices of a unit ascending."""
    return {(piece.name, piece.dim): np.sort(piece.index, axis=1).tolist() for piece in group.slices}


@pytest.mark.parametrize("name", LAYOUTS)
def test_units_own_the_indices_that_the_modelling_code_gives_them(name):
    layout, options = LAYOUTS[name]
    structure = discover(tiny_model(name, "meta", **options))
    for number, layer in enumerate(structure.layers):
        groups = {group.kind: group for group in structure.groups if group.layer == number}
        assert [found_in(groups[kind]) for kind in ("attention", "mlp")] == list(layout(layer))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layer_has_one_group_of_heads_and_one_of_channels(name):
    structure = discover(tiny_model(name, "meta", **LAYOUTS[name][1]))
    kinds = [(group.kind, group.layer) for group in structure.groups]
    for kind in ("attention", "mlp"):
        assert [layer for each, layer in kinds if each == kind] == list(range(len(structure.layers)))


@pytest.mark.parametrize("name", ["llama", "phi3", "mixtral"])
def test_a_query_unit_is_one_query_head_of_every_key_value_group(name):
    for group in discover(tiny_model(name, "meta", **LAYOUTS[name][1])).groups:
        if group.kind == "query":
            places = found_in(group)
            every_other = [list(chain(*whole(HEADS, HEAD_DIM)[unit::2])) for unit in range(2)]
            assert list(places.values()) == [every_other] * 2


def test_only_what_contracts_the_activation_reads_it():
    for group in discover(tiny_model("llama", "meta")).groups:
        if group.kind in ("mlp", "attention"):
            readers = [piece.name.split(".")[-2] for piece in group.slices if piece.reads]
            assert readers == [{"mlp": "down_proj", "attention": "o_proj"}[group.kind]]
