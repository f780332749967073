"""One door to all criteria: which there are, and the scores of a model's groups by one of them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruner.groups import Group
from pruner.importance.activations import gate_importance
from pruner.importance.criteria import REDUCTIONS, WEIGHT_CRITERIA, choose, random_scores
from pruner.importance.statistics import RULES, statistical_importance
from pruner.importance.weights import weight_importance
from pruner.progress import Track, silent
from pruner.ranks import ALONE, Ranks

CRITERIA = {
    "random": "nothing: the baseline that any criterion has to beat",
    "l1": "magnitude of the weights",
    "l2": "squared magnitude of the weights",
    "taylor": "first-order change in loss, a unit's weights taken as vectors",
    "taylor_first": "first-order change in loss, element by element: LLM-Pruner's default",
    "taylor_second": "second-order change in loss by the diagonal Fisher",
    "taylor_mix": "first and second order together",
    "gate_taylor": "first-order change in loss, from activations and their gradients",
    "gate_fisher": "second-order change in loss, from activations and their gradients",
    "wanda_sp": "magnitude of the weights times that of the activations they read",
    "flap": "how much the activations vary that the weights read: what no bias can make good",
    "kronecker": "loss after the best refit, chosen within the walk over the layers",
}
"""Name -> what it looks at."""

NEED_NO_TEXT = ("random", "l1", "l2")


def estimate_importance(
    model: PreTrainedModel,
    groups: Sequence[Group],
    input_ids: Tensor | None,
    criterion: str,
    reduction: str = "sum",
    batch_size: int | None = None,
    seed: int = 0,
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Score every unit of every group: group name -> (num_units,) fp32 on the CPU, larger is dearer.

    Args:
        model: is left as it was.
        groups: what to score.
        input_ids: (num_samples, seq_len) int64; None for criteria that read no text.
        criterion: one of `CRITERIA`.
        reduction: one of `REDUCTIONS`: how a unit's matrices become one score; criteria on weights alone.
        batch_size: samples in one pass; no influence on the result.
        seed: of "random".
        track: sees the passes go by.
        ranks: the processes that share the samples.

    Raises:
        ValueError: an unknown name, "kronecker", whose scores the walk over the layers gives, quantised
            weights, or a loss or score that is not finite.
    """
    choose(criterion, CRITERIA, "criterion")
    if criterion == "kronecker":
        raise ValueError(
            "criterion 'kronecker' scores units within the walk over the layers, on what the layers before "
            "have left: call prune, or choose gate_fisher"
        )
    choose(reduction, REDUCTIONS, "reduction")
    if input_ids is None:
        if criterion not in NEED_NO_TEXT:
            raise ValueError(f"criterion {criterion!r} reads calibration text, and none was given")
        input_ids = torch.zeros((1, 2), dtype=torch.int64)
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        scores = {group.name: random_scores(group.num_units, generator) for group in groups}
    elif criterion in WEIGHT_CRITERIA:
        rule = WEIGHT_CRITERIA[criterion]
        scores = weight_importance(model, groups, input_ids, rule, reduction, batch_size, track, ranks)
    elif criterion in RULES:
        scores = statistical_importance(model, groups, input_ids, criterion, batch_size, track, ranks)
    else:
        squared = criterion == "gate_fisher"
        scores = gate_importance(model, groups, input_ids, squared, batch_size, track, ranks)
    for name, values in scores.items():
        if not values.isfinite().all():
            raise ValueError(
                f"the scores of {name} by {criterion} are not finite: its weights are not, or too large for "
                "their type; load the model in bfloat16 or float32"
            )
    return scores
