"""Backward passes over calibration samples in which nothing that is not asked for is kept."""

from collections.abc import Collection, Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from pruner.gradients import TOKENS_AT_ONCE, at_once
from pruner.progress import Track
from pruner.ranks import Ranks
from pruner.visiting import is_layer_by_layer

IGNORED = -100
"""Target of the last token, which none follows; its logits stay, as a slice would copy all others."""

TOKENS_PER_VISIT = 2048
"""Of a pass in which layers are fetched one at a time: more, as it keeps their inputs alone."""


def language_loss(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Mean loss over each sample's predicted tokens, in nats.

    input_ids: (samples, seq_len) int64 -> (samples,) fp32.
    """
    logits = model(input_ids=input_ids.to(model.device), use_cache=False).logits.float()
    targets = F.pad(input_ids[:, 1:], (0, 1), value=IGNORED).to(logits.device)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view_as(targets).sum(1) / (targets.shape[1] - 1)


def backward(model: PreTrainedModel, batch: Tensor, numbers: Sequence[int], num_samples: int) -> None:
    """Back-propagate a batch's share of the mean loss over `num_samples`.

    Raises:
        ValueError: the loss of a sample is not finite; `numbers` says which sample of the text it is.
    """
    losses = language_loss(model, batch)
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        raise ValueError(
            f"the loss of calibration sample {numbers[int(bad[0])]} is {losses[bad[0]].item()}; the model "
            "does not survive its own weights' precision: load it in bfloat16 or float32"
        )
    (losses.sum() / num_samples).backward()


def batches_of(
    model: PreTrainedModel,
    input_ids: Tensor,
    batch_size: int | None,
    track: Track,
    ranks: Ranks,
    every: int = 1,
) -> Iterator[tuple[Tensor, Sequence[int]]]:
    """This process's share of each `every`-th sample, in batches, each with the numbers of its samples."""
    samples = input_ids[::every]
    tokens = TOKENS_PER_VISIT if is_layer_by_layer(model) else TOKENS_AT_ONCE
    share, batch_size = ranks.share(samples), at_once(samples, batch_size, tokens)
    batches = share.split(batch_size) if len(share) else ()
    numbers = range(0, len(input_ids), every)[ranks.first(len(samples)) :]
    for start, batch in enumerate(track(batches, "estimate", len(batches))):
        yield batch, numbers[start * batch_size :][: len(batch)]


def check_finite(values: Tensor, module: str, numbers: Sequence[int], seq_len: int) -> None:
    """Raise ValueError unless what a pass gave for a module is finite.

    Args:
        values: (samples, ...), (samples · seq_len, ...), or of as many tokens as a router sent.
        module: what they go through.
        numbers: which samples of the text the pass is over.
        seq_len: tokens in each.
    """
    bad = (~values.flatten(1).isfinite().all(1)).nonzero()
    if not len(bad):
        return
    where = f"one of the calibration samples {numbers[0]} to {numbers[-1]}"
    for rows_each in (1, seq_len):
        if len(values) == rows_each * len(numbers):
            where = f"calibration sample {numbers[int(bad[0]) // rows_each]}"
    raise ValueError(
        f"activations or gradients at {module} are not finite on {where}: weights that are not, or too large "
        "for their type; load the model in bfloat16 or float32, or change calibration.seed"
    )


def parameters_of(model: nn.Module, names: Collection[str]) -> dict[str, nn.Parameter]:
    """The named parameters.

    Raises:
        ValueError: one cannot have a gradient because it is quantised.
    """
    wanted = set(names)
    found = {name: parameter for name, parameter in model.named_parameters() if name in wanted}
    for name, parameter in found.items():
        if not parameter.is_floating_point():
            raise ValueError(
                f"{name} is quantised ({parameter.dtype}): gradients need floating-point weights; load the "
                "model unquantised, or score by activations or at random"
            )
    return found
