"""Which decoder layers a model misses least: greedily, each by the loss of the model without it."""

import math
from collections.abc import Collection

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruner.bypass import bypassed, bypasses
from pruner.gradients import at_once
from pruner.groups import Group
from pruner.importance.backward import language_loss
from pruner.progress import Track, silent
from pruner.ranks import ALONE, Ranks


def least_missed(
    model: PreTrainedModel,
    group: Group,
    number: int,
    candidates: Collection[int],
    input_ids: Tensor,
    batch_size: int | None = None,
    track: Track = silent,
    ranks: Ranks = ALONE,
) -> tuple[tuple[int, ...], Tensor]:
    """Leave out `number` layers, one after the other, each time the one that raises the loss least.

    SLEB (Song et al. 2024), section 3: measured on the model that the layers before are gone from, not
    guessed from how alike a layer's input and output are.

    Args:
        model: is left as it was.
        group: of its decoder layers, kind "layer".
        number: how many go.
        candidates: layers that may go; the effect of the others is measured once all the same.
        input_ids: (num_samples, seq_len) int64.
        batch_size: samples at once, None for 512 tokens; no influence on the result.
        track: sees the measurements go by.
        ranks: the processes that share the samples.

    Returns:
        The layers that go, ascending, and (num_layers,) fp32: the rise of the mean loss, in nats, without
        the layer, as last measured.

    Raises:
        ValueError: not so many layers may go, or a loss is not finite.
    """
    check_number(number, group, candidates)
    stand_ins = bypasses(model, group.modules, input_ids[:1].to(model.device))

    def loss_without(*layers: int) -> float:
        with bypassed(model, {name: stand_ins[name] for name in (group.modules[layer] for layer in layers)}):
            loss = mean_loss(model, input_ids, batch_size, ranks)
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of the calibration text is {loss} without the layers {list(layers)}; load the "
                "model in bfloat16 or float32"
            )
        return loss

    gone: list[int] = []
    rises = torch.zeros(group.num_units)
    for turn in range(number):
        before = loss_without(*gone)
        measured = [layer for layer in (candidates if turn else range(group.num_units)) if layer not in gone]
        for layer in track(measured, f"layer {turn + 1} of {number}", len(measured)):
            rises[layer] = loss_without(*gone, layer) - before
        gone.append(min((layer for layer in candidates if layer not in gone), key=lambda n: rises[n].item()))
    return tuple(sorted(gone)), rises


def check_number(number: int, group: Group, candidates: Collection[int]) -> None:
    """Raise ValueError unless so many of the group's layers may go, and one stays."""
    if number > min(len(candidates), group.num_units - 1):
        raise ValueError(
            f"budget.layers asks for {number} decoder layers, and {len(candidates)} of {group.num_units} are "
            "not protected, of which one must stay if all are; ask for fewer, or lower protect_first and "
            "protect_last"
        )


@torch.no_grad()
def mean_loss(model: PreTrainedModel, input_ids: Tensor, batch_size: int | None, ranks: Ranks) -> float:
    """Over all samples, those of the other processes too, in nats per token."""
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    for batch in ranks.share(input_ids).split(at_once(input_ids, batch_size)):
        total += language_loss(model.eval(), batch).sum()
    ranks.add(total)
    return total.item() / len(input_ids)
