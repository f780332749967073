"""What recovery learns from: the logits before every learned token, and the loss on them."""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.collation import IGNORED

INPUTS = ("input_ids", "attention_mask", "position_ids")


def learned_logits(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits of the positions that precede a learned token, and these tokens.

    The output layer computes no others: of a vocabulary of 128k that is most of a batch's memory.

    Args:
        model: a causal language model, PEFT around it or not.
        batch: as `Collate` makes it.

    Returns:
        (num_learned, vocabulary) logits and (num_learned,) token ids, row after row.
    """
    labels = batch["labels"]
    learned = F.pad(labels[:, 1:], (0, 1), value=IGNORED) != IGNORED
    inputs = {name: batch[name] for name in INPUTS if name in batch}
    if is_varlen(model) and "position_ids" in inputs:
        inputs = {name: value.reshape(1, -1) for name, value in inputs.items()}
    with only_at(model.get_output_embeddings(), learned.flatten()):
        logits: Tensor = model(**inputs, use_cache=False).logits  # with a cache no mask follows positions
    return logits.flatten(0, -2), labels[:, 1:][learned[:, :-1]]


@contextmanager
def only_at(output_layer: nn.Module, positions: Tensor) -> Any:
    """Let the output layer see the hidden states at `positions` of the flattened batch alone."""

    def select(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1)[positions].unsqueeze(0), *inputs[1:])

    handle = output_layer.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def is_varlen(model: Any) -> bool:
    """Whether attention takes all samples as one row of several lengths, without a mask."""
    return str(model.config._attn_implementation).startswith("flash_attention")


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss summed over learned tokens, in nats, computed in fp32.

    logits: (num_learned, vocabulary), targets: (num_learned,).
    """
    return F.cross_entropy(logits.float(), targets, reduction="sum")
