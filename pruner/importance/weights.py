"""Scores from weights and their gradients, folded into the groups while the backward pass runs."""

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruner.gradients import at_once, streamed_gradients
from pruner.groups import Group
from pruner.importance.backward import backward, parameters_of
from pruner.importance.criteria import REDUCTIONS, WeightCriterion
from pruner.progress import Track, silent
from pruner.ranks import ALONE, Ranks

SWEEPS = 4
"""Over a text of several passes, where gradients have to be whole: a quarter of them is kept at a time."""


class Folding:
    """Saliency of every (parameter, axis), summed over the other axes, fp32; holds no finished gradient.

    A parameter's gradient is kept only while some of the `passes` that make it whole are missing.
    """

    def __init__(
        self,
        criterion: WeightCriterion,
        parameters: Mapping[str, nn.Parameter],
        axes: Collection[tuple[str, int]],
        num_samples: int,
        passes: int = 1,
        ranks: Ranks = ALONE,
    ) -> None:
        self.criterion = criterion
        self.parameters = parameters
        self.axes = axes
        self.num_samples = num_samples
        self.passes = passes
        self.ranks = ranks
        self.folded: dict[tuple[str, int], Tensor] = {}
        self.unfinished: dict[str, tuple[int, Tensor, Tensor]] = {}
        self.samples = "all samples"

    def receive(self, name: str, grad: Tensor) -> None:
        """Take a parameter's gradient of one pass, of the mean loss's share of that pass's samples.

        Raises:
            ValueError: it is not finite; says of which samples.
        """
        grad = grad.float()
        if not grad.isfinite().all():
            raise ValueError(
                f"the gradient of {name} is not finite on {self.samples}: it overflows; load the model in "
                "bfloat16 or float32, or change calibration.seed"
            )
        square = grad.square() * self.num_samples if self.criterion.per_sample else torch.zeros(())
        seen, *sums = self.unfinished.pop(name, (0, None, None))
        if sums[0] is not None and sums[1] is not None:
            grad, square = sums[0].add_(grad), sums[1].add_(square)
        if seen + 1 < self.passes:
            self.unfinished[name] = (seen + 1, grad, square)
        else:
            if not self.criterion.additive:
                self.ranks.add(*([grad, square] if self.criterion.per_sample else [grad]))
            self.fold(name, grad, square)

    def fold(self, name: str, grad: Tensor, square: Tensor) -> None:
        """Add the saliency of one parameter's elements along each axis that a group owns.

        Raises:
            ValueError: it is not finite.
        """
        weight = self.parameters[name].detach().float()
        saliency = self.criterion.saliency(weight, grad, square)
        saliency = saliency if self.criterion.vector else saliency.abs()
        for owner, dim in self.axes:
            if owner != name:
                continue
            total = saliency.sum([other for other in range(saliency.dim()) if other != dim])
            if not total.isfinite().all():
                raise ValueError(
                    f"the scores of {name} are not finite on {self.samples}: its weights are not, or too "
                    "large; load the model in float32, or change calibration.seed"
                )
            before = self.folded.get((name, dim))
            self.folded[name, dim] = total if before is None else before + total


def weight_importance(
    model: PreTrainedModel,
    groups: Sequence[Group],
    input_ids: Tensor,
    criterion: WeightCriterion,
    reduction: str = "sum",
    batch_size: int | None = None,
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Group name -> (num_units,) fp32 on the CPU; one sample's loss is the mean over its tokens, in nats.

    A unit's members are the matrices it owns a slice of; `reduction` makes one score of theirs. Criteria
    that need a parameter's whole gradient before its elements can be added take a few sweeps over the samples
    if these do not fit one batch, and so keep the gradients of some of the layers at a time.

    Args:
        model: is left as it was.
        groups: what to score.
        input_ids: (num_samples, seq_len) int64.
        criterion: one of `WEIGHT_CRITERIA`.
        reduction: one of `REDUCTIONS`.
        batch_size: samples in one backward pass, None for 512 tokens; no influence on the result.
        track: sees the passes go by.
        ranks: the processes that share the samples.

    Raises:
        ValueError: weights are quantised, or a loss or score is not finite.
    """
    names = {piece.name for group in groups for piece in group.slices}
    parameters = {name: weight for name, weight in parameters_of(model, names).items() if weight.dim() > 1}
    axes = {(piece.name, piece.dim) for group in groups for piece in group.slices if piece.name in parameters}
    folding = Folding(criterion, parameters, axes, len(input_ids), ranks=ranks)
    if criterion.gradient:
        size = 1 if criterion.per_sample else at_once(input_ids, batch_size)
        _sweep(model, folding, input_ids, size, track)
        if criterion.additive:
            ranks.add(*folding.folded.values())
    else:
        for name in parameters:
            folding.fold(name, torch.zeros(()), torch.zeros(()))
    return {group.name: _unit_scores(group, folding, reduction) for group in groups}


def _sweep(model: PreTrainedModel, folding: Folding, input_ids: Tensor, size: int, track: Track) -> None:
    """Run every backward pass that the criterion needs on this process's share of the samples."""
    batches = folding.ranks.share(input_ids).split(size)
    sweeps = [folding.parameters]
    largest = len(input_ids.tensor_split(folding.ranks.size)[0])
    if not folding.criterion.additive and largest > size:
        folding.passes = len(batches)
        sweeps = _by_layers(folding.parameters)
    begin = folding.ranks.first(len(input_ids))
    starts = [begin + sum(map(len, batches[:i])) for i in range(len(batches))]
    steps = [(part, first, batch) for part in sweeps for first, batch in zip(starts, batches)]
    for part, first, batch in track(steps, "estimate", len(steps)):
        folding.samples = f"calibration sample {first}" + f" to {first + len(batch) - 1}" * (len(batch) > 1)
        with streamed_gradients(model, part, folding.receive):
            backward(model, batch, range(first, first + len(batch)), folding.num_samples)


def _by_layers(parameters: Mapping[str, nn.Parameter]) -> list[Mapping[str, nn.Parameter]]:
    """The parameters in `SWEEPS` parts of whole layers, by the first number in their names."""
    layers: dict[str, list[str]] = {}
    for name in parameters:
        number = re.search(r"\.(\d+)\.", name)
        layers.setdefault(number[1] if number else "", []).append(name)
    inside, each = list(layers.values()), -(-len(layers) // SWEEPS)
    parts = [inside[start : start + each] for start in range(0, len(inside), each)]
    return [{name: parameters[name] for names in part for name in names} for part in parts]


def _unit_scores(group: Group, folding: Folding, reduction: str) -> Tensor:
    """(num_units,) fp32: the members' scores, those that read the group last, made one."""
    members = []
    for piece in sorted(group.slices, key=lambda piece: piece.reads):
        vector = folding.folded.get((piece.name, piece.dim))
        if vector is not None:
            members.append(vector[torch.as_tensor(piece.index, device=vector.device)].sum(1).cpu())
    scores = torch.stack(members)
    return REDUCTIONS[reduction](scores.abs() if folding.criterion.vector else scores)
