"""Several samples in one row, each attending to itself alone: how that is had, and whether it is."""

import logging
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

LENGTHS = (7, 9)
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}


def prefer_varlen(model: Any, device: torch.device) -> None:
    """Use flash-attention's kernel for many lengths where there is one; else a block-diagonal mask is used.

    It needs a GPU, half precision, the package flash-attn and a model that supports it. Without it
    transformers derives the mask from positions that begin anew.
    """
    from transformers.utils import is_flash_attn_2_available

    half = model.dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and half and model._supports_flash_attn and is_flash_attn_2_available():
        model.set_attn_implementation("flash_attention_2")
    log.info("packed samples are kept apart by %s", model.config._attn_implementation)


@torch.no_grad()
def check_isolation(model: Any) -> None:
    """Run a sample alone, and after each of two others.

    Raises:
        ValueError: its logits are not the same, so this architecture mixes the samples of a packed row
            (its masks ignore positions, as BLOOM's do, or it carries a recurrent state).
    """
    num_first, num_last = LENGTHS
    vocabulary = model.get_input_embeddings().num_embeddings
    tokens = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0))[
        : 2 * num_first + num_last
    ]
    first, other, last = tokens.to(model.device).split([num_first, num_first, num_last])
    was_training = model.training
    model.eval()
    try:
        alone = _logits(model, [last])
        beside, beside_other = (_logits(model, [each, last])[num_first:] for each in (first, other))
    except (TypeError, RuntimeError) as error:
        raise ValueError(REFUSED.format(type(model).__name__, f"it fails on one: {error}")) from error
    finally:
        model.train(was_training)
    size = alone.norm()
    leaked, shifted = (beside - beside_other).norm() / size, (beside - alone).norm() / size
    if not (leaked < 1e-6 and shifted < ROUNDING[model.dtype]):
        reason = f"a sample's logits differ by {max(leaked, shifted):.1e} of their size beside another"
        raise ValueError(REFUSED.format(type(model).__name__, reason))


REFUSED = (
    "data.batching: packed needs a model that keeps the samples of a row apart, and {} does not: {}; "
    "use data.batching: by_length"
)


def _logits(model: Any, samples: list[Tensor]) -> Tensor:
    """(num_tokens, vocabulary) fp32 logits of samples packed into one row."""
    positions = torch.cat([torch.arange(len(sample), device=sample.device) for sample in samples])
    output = model(input_ids=torch.cat(samples)[None], position_ids=positions[None], use_cache=False)
    logits: Tensor = output.logits[0].float()
    return logits
