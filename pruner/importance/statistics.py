"""Scores from what the projections' inputs are like, by forward passes alone: Wanda-sp and FLAP."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruner.gradients import at_once
from pruner.groups import Group
from pruner.importance.activations import observed, project
from pruner.importance.backward import check_finite
from pruner.progress import Track, silent
from pruner.projections import Projection, input_major
from pruner.ranks import ALONE, Ranks


def wanda(weight: Tensor, _mean: Tensor, square: Tensor) -> Tensor:
    """Σ_o |W_io| ‖a_i‖: Wanda (Sun et al. 2024, eq. 1), summed over the outputs of an input as in Wanda-sp.

    weight: (in, out), _mean E[a]: (in,), square E[a²]: (in,) -> (in,).
    """
    return weight.abs().sum(1) * square.sqrt()


def flap(weight: Tensor, mean: Tensor, square: Tensor) -> Tensor:
    """Var[a_i] ‖W_i‖²: the weighted fluctuation of FLAP (An et al. 2024, section 3.2).

    What an input varies is what a bias cannot make good. Shapes as in `wanda`.
    """
    return (square - mean.square()).clamp(min=0) * weight.square().sum(1)


RULES = {"wanda_sp": wanda, "flap": flap}


@torch.no_grad()
def statistical_importance(
    model: PreTrainedModel,
    groups: Sequence[Group],
    input_ids: Tensor,
    criterion: str,
    batch_size: int | None = None,
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Group name -> (num_units,) fp32: the sum over a unit's inputs of `wanda` or `flap`.

    Args:
        model: is left as it was; quantised or frozen weights will do, but for those of the projections.
        groups: each read by one linear layer.
        input_ids: (num_samples, seq_len) int64.
        criterion: one of `RULES`.
        batch_size: samples in one forward pass, None for 512 tokens; no influence on the result.
        track: sees the passes go by.
        ranks: the processes that share the samples.
    """
    projections = project(model, groups)
    moments = input_moments(model, projections, input_ids, batch_size, track, ranks)
    scores = {}
    for name, projection in projections.items():
        weight = input_major(model.get_submodule(projection.module)).float()
        mean, square = moments[name].float().to(weight.device)
        index = torch.as_tensor(projection.index, device=weight.device)
        scores[name] = RULES[criterion](weight, mean, square)[index].sum(1).cpu()
    return scores


def input_moments(
    model: PreTrainedModel,
    projections: Mapping[str, Projection],
    input_ids: Tensor,
    batch_size: int | None,
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """E[a] and E[a²] over all tokens of every projection's input: name -> (2, in) fp64.

    Raises:
        ValueError: an input is not finite; says of which sample.
    """
    totals: dict[str, Tensor] = {}
    tokens, numbers = input_ids.numel(), range(ranks.first(len(input_ids)))

    def receive(name: str, activation: Tensor) -> None:
        check_finite(activation, projections[name].module, numbers, input_ids.shape[1])
        rows = activation.flatten(0, -2).double()
        totals[name] = totals.get(name, 0) + torch.stack([rows.sum(0), rows.square().sum(0)]) / tokens

    training = model.training
    batches = ranks.share(input_ids).split(at_once(input_ids, batch_size))
    with observed(model, projections, receive):
        for batch in track(batches, "estimate", len(batches)):
            numbers = range(numbers.stop, numbers.stop + len(batch))
            model.eval()(input_ids=batch.to(model.device), use_cache=False)
    model.train(training)
    ranks.add(*totals.values())
    return totals
