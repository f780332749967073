"""The walk over the layers: at each projection choose, remove, compensate, on what the layers before gave."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruner.compensation import Compensation
from pruner.compensation.distilling import distil
from pruner.compensation.room import beside
from pruner.compensation.streams import WALKING_TOKENS, Call, advance, enter, layer_calls
from pruner.discovery import Structure
from pruner.gradients import at_once
from pruner.groups import Group
from pruner.importance.activations import project
from pruner.modeling.biases import bias_switches, complete_biases
from pruner.pipeline.layer_walk import Choose, LayerWalk
from pruner.progress import Track, silent
from pruner.projections import Projection, projection_of
from pruner.ranks import ALONE, Ranks
from pruner.visiting import present


@torch.no_grad()
def compress(
    model: PreTrainedModel,
    structure: Structure,
    groups: Sequence[Group],
    input_ids: Tensor,
    choose: Choose,
    settings: Compensation,
    track: Track = silent,
    ranks: Ranks = ALONE,
    dropped: Collection[int] = (),
) -> dict[str, tuple[int, ...]]:
    """Prune `groups` in place, layer by layer; beside the model one dense layer and two streams are kept.

    The streams are the hidden states of all samples in the dense and in the pruned model; up to the first
    layer that is pruned they are one. With `settings.epochs` the dense one goes on to the end, for the
    pruned model to learn from.

    Args:
        model: dense; afterwards pruned and compensated.
        structure: of the dense model.
        groups: those that lose units, each read by one linear projection.
        input_ids: (num_samples, seq_len) int64.
        choose: picks the units that stay.
        settings: of the refit.
        track: sees the layers go by.
        ranks: the processes that share the samples.
        dropped: layers that the pruned stream passes by, and the dense one does not: what they did is drift,
            which the refits behind them make good. They are left in the model.

    Returns:
        Group name -> surviving units.
    """
    switches = switches_for(model, groups, settings)
    share, layers, first = ranks.share(input_ids), structure.layers, ranks.first(len(input_ids))
    size = at_once(input_ids, settings.batch_size, WALKING_TOKENS)
    last = max(group.layer or 0 for group in groups)
    if not settings.epochs:
        layers = layers[: last + 1]
    calls = layer_calls(model, layers, share, size)
    dense = enter(model, layers[0], share, size, settings.streams)
    pruned = dense
    kept: dict[str, tuple[int, ...]] = {}
    for number, name in track(list(enumerate(layers)), "compress", len(layers)):
        here = {group.name: group for group in groups if group.layer == number}
        with present(model.get_submodule(name)):
            if number > last:
                advance(model.get_submodule(name), calls[number], dense, size)
                continue
            if number in dropped:
                pruned = beside(dense, settings.streams) if pruned is dense else pruned
                advance(model.get_submodule(name), calls[number], dense, size)
                continue
            if not here:
                pruned = _both(model, name, calls[number], dense, pruned, size)
                continue
            pruned = beside(dense, settings.streams) if pruned is dense else pruned
            readers = _readers(model, structure, here)
            walk = LayerWalk(model, name, calls[number], dense, pruned, readers, settings, size, ranks, first)
            for projection in walk.projections:
                if projection.group.name in here:
                    kept[projection.group.name] = walk.prune(projection, choose)
            walk.leave()
    if settings.epochs:
        del pruned
        gone = [layers[number] for number in dropped]
        distil(model, layers, gone, dense, input_ids, settings, track, ranks)
    complete_biases(model, switches)
    return kept


def switches_for(
    model: PreTrainedModel, groups: Sequence[Group], settings: Compensation | None
) -> tuple[str, ...]:
    """The configuration's entries that let the refits of `groups` add biases, where they are to.

    Raises:
        ValueError: the architecture has no place for them.
    """
    if settings is None or not settings.bias:
        return ()
    return bias_switches(model, {each.module for each in project(model, groups).values()})


def _both(model: PreTrainedModel, name: str, call: Call, dense: Tensor, pruned: Tensor, size: int) -> Tensor:
    """Carry both streams through a layer that loses nothing."""
    layer = model.get_submodule(name)
    advance(layer, call, dense, size)
    return dense if pruned is dense else advance(layer, call, pruned, size)


def _readers(model: PreTrainedModel, structure: Structure, here: Mapping[str, Group]) -> list[Projection]:
    """The projections of a layer, once each; those of the groups that lose units stand for the others."""
    layer = next(iter(here.values())).layer
    beside = [group for group in structure.groups if group.layer == layer and group.name not in here]
    found = [projection_of(model, group) for group in [*here.values(), *beside]]
    readers: dict[str, Projection] = {}
    for projection in found:
        if projection is not None:
            readers.setdefault(projection.module, projection)
    return list(readers.values())
