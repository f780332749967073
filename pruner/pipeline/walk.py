"""The walk over the layers: at each projection choose, remove, compensate, on what the layers before gave."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruner.compensation import Compensation
from pruner.compensation.distilling import distil
from pruner.compensation.least_squares import Moments, refit
from pruner.compensation.room import beside
from pruner.compensation.streams import Call, Passage, advance, enter, is_residual, layer_calls, watch
from pruner.discovery import Structure
from pruner.groups import Group
from pruner.importance.activations import project
from pruner.modeling.biases import bias_switches, complete_biases
from pruner.progress import Track, silent
from pruner.projections import Projection, input_major, projection_of
from pruner.ranks import ALONE, Ranks
from pruner.surgery import remove
from pruner.visiting import present

Choose = Callable[[Projection, Moments, Tensor], tuple[int, ...]]
"""(projection, moments of its inputs and targets, its (in, out) weight) -> the units that stay."""


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
    size, share, layers = settings.batch_size, ranks.share(input_ids), structure.layers
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
            walk = LayerWalk(
                model, name, calls[number], dense, pruned, _readers(model, structure, here), settings, ranks
            )
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


class LayerWalk:
    """One decoder layer while it is pruned: dense and pruned, with the hidden states before each."""

    def __init__(
        self,
        model: PreTrainedModel,
        name: str,
        call: Call,
        dense: Tensor,
        pruned: Tensor,
        readers: Sequence[Projection],
        settings: Compensation,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.ranks = ranks
        self.call = call
        self.streams = (dense, pruned)
        self.settings = settings
        self.layer = model.get_submodule(name)
        self.original = copy.deepcopy(self.layer)
        inside = {reader.module.removeprefix(f"{name}."): reader for reader in readers}
        first = dense[: settings.batch_size].to(next(self.layer.parameters()).device)
        passage = watch(self.original, call, first, list(inside))
        self.dense_has_left = False
        self.modules = list(passage.inputs)
        self.projections = [inside[module] for module in self.modules]
        self.drift = settings.drift if is_residual(passage, first, self.modules) else 0.0

    def prune(self, projection: Projection, choose: Choose) -> tuple[int, ...]:
        """Choose the units of one projection, remove the others, refit it to what remains."""
        module = self.layer.get_submodule(self.modules[self.projections.index(projection)])
        weight = input_major(module).float()
        moments = self.moments(projection)
        kept = self.ranks.agree(choose(projection, moments, weight), weight.device)
        inputs = projection.inputs_of(kept)
        with_bias = module.bias is not None or self.settings.bias
        fitted, bias = refit(moments, weight, inputs, self.settings.damping, with_bias, self.settings.weights)
        remove(self.model, [projection.group], {projection.group.name: kept})
        input_major(module).copy_(fitted)
        if bias is not None and module.bias is None:
            module.bias = nn.Parameter(bias.to(module.weight.dtype), module.weight.requires_grad)
        elif bias is not None:
            module.bias.copy_(bias)
        return kept

    def moments(self, projection: Projection) -> Moments:
        """Of a projection's inputs in the pruned model with what is wanted of it: dense output and drift."""
        at = self.projections.index(projection)
        here, before = self.modules[at], self.modules[:at]
        through = None if here == self.modules[-1] else here  # the last one takes the dense stream along
        weight = input_major(self.layer.get_submodule(here))
        moments = Moments(len(weight), weight.shape[1], weight.device)
        size = self.settings.batch_size
        for rows, own in zip(*(stream.split(size) for stream in self.streams)):
            dense, pruned = rows.to(weight.device), own.to(weight.device)
            ours = watch(self.layer, self.call, pruned, [*before, here], until=here)
            theirs = watch(self.original, self.call, dense, [*before, here], through=through)
            drift = _residual(dense, theirs, before) - _residual(pruned, ours, before)
            moments.update(ours.inputs[here], theirs.outputs[here] + self.drift * drift)
            if theirs.hidden is not None:
                rows.copy_(theirs.hidden)
                self.dense_has_left = True
        moments.meet(self.ranks)
        return moments

    def leave(self) -> None:
        """Carry both streams to the next layer."""
        dense, pruned = self.streams
        if not self.dense_has_left:
            advance(self.original, self.call, dense, self.settings.batch_size)
        advance(self.layer, self.call, pruned, self.settings.batch_size)


def _residual(hidden: Tensor, passage: Passage, before: Sequence[str]) -> Tensor:
    """The residual stream behind the projections that have added to it."""
    for module in before:
        hidden = hidden + passage.outputs[module]
    return hidden
