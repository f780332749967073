"""One decoder layer on the walk: the moments of its projections, and what becomes of each."""

import copy
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from pruner.compensation import Compensation
from pruner.compensation.least_squares import Moments, refit
from pruner.compensation.streams import Call, Passage, advance, is_residual, watch
from pruner.importance.backward import check_finite
from pruner.projections import Projection, input_major
from pruner.ranks import ALONE, Ranks
from pruner.surgery import remove

Choose = Callable[[Projection, Tensor, Tensor, Tensor], tuple[int, ...]]
"""(projection, E[a aᵀ] of its inputs, E[a tᵀ] with its targets, its (in, out) weight) -> units that stay."""


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
        size: int,
        ranks: Ranks = ALONE,
        first: int = 0,
    ) -> None:
        self.model = model
        self.ranks = ranks
        self.call = call
        self.streams = (dense, pruned)
        self.settings = settings
        self.size = size
        self.first = first
        self.layer = model.get_submodule(name)
        self.original = copy.deepcopy(self.layer)
        inside = {reader.module.removeprefix(f"{name}."): reader for reader in readers}
        device = next(self.layer.parameters()).device
        hidden = dense[: self.size].to(device)
        passage = watch(self.original, call, hidden, list(inside))
        self.dense_has_left = False
        self.modules = list(passage.inputs)
        self.projections = [inside[module] for module in self.modules]
        drift = settings.drift if is_residual(passage, hidden, self.modules) else 0.0
        self.drift = ranks.hear(drift, device)

    def prune(self, projection: Projection, choose: Choose) -> tuple[int, ...]:
        """Choose the units of one projection, remove the others, refit it to what remains."""
        module = self.layer.get_submodule(self.modules[self.projections.index(projection)])
        weight = input_major(module).float()
        moments = self.moments(projection)
        with_bias = module.bias is not None or self.settings.bias
        kept = self.ranks.agree(choose(projection, *moments.second(with_bias), weight), weight.device)
        inputs = projection.inputs_of(kept)
        fitted, bias = refit(moments, weight, inputs, self.settings.damping, with_bias, self.settings.weights)
        remove(self.model, [projection.group], {projection.group.name: kept})
        input_major(module).copy_(fitted)
        if bias is not None and module.bias is None:
            module.bias = nn.Parameter(bias.to(module.weight.dtype), module.weight.requires_grad)
        elif bias is not None:
            module.bias.copy_(bias)
        return kept

    def moments(self, projection: Projection) -> Moments:
        """Of a projection's inputs in the pruned model with what is wanted of it: dense output and drift.

        Raises:
            ValueError: either is not finite; says on which sample.
        """
        at = self.projections.index(projection)
        here, before = self.modules[at], self.modules[:at]
        through = None if here == self.modules[-1] else here  # the last one takes the dense stream along
        weight = input_major(self.layer.get_submodule(here))
        moments = Moments(len(weight), weight.shape[1], weight.device)
        numbers = range(self.first, self.first)
        for rows, own in zip(*(stream.split(self.size) for stream in self.streams)):
            numbers = range(numbers.stop, numbers.stop + len(rows))
            dense, pruned = rows.to(weight.device), own.to(weight.device)
            ours = watch(self.layer, self.call, pruned, [*before, here], until=here)
            theirs = watch(self.original, self.call, dense, [*before, here], through=through)
            drift = _residual(dense, theirs, before) - _residual(pruned, ours, before)
            inputs, targets = ours.inputs[here], theirs.outputs[here] + self.drift * drift
            for values in (inputs, targets):
                check_finite(values, projection.module, numbers, rows.shape[1])
            moments.update(inputs, targets)
            if theirs.hidden is not None:
                rows.copy_(theirs.hidden)
                self.dense_has_left = True
        moments.meet(self.ranks)
        return moments

    def leave(self) -> None:
        """Carry both streams to the next layer."""
        dense, pruned = self.streams
        if not self.dense_has_left:
            advance(self.original, self.call, dense, self.size)
        advance(self.layer, self.call, pruned, self.size)


def _residual(hidden: Tensor, passage: Passage, before: Sequence[str]) -> Tensor:
    """The residual stream behind the projections that have added to it."""
    for module in before:
        hidden = hidden + passage.outputs[module]
    return hidden
