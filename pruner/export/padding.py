"""The dense shapes again, zeros where something went: no faster, but any runtime loads it."""

from typing import TYPE_CHECKING

import torch

from pruner.modeling.widths import build, dense_config, stock_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-4


def padded(model: "PreTrainedModel") -> "PreTrainedModel":
    """The dense architecture with the pruned model's weights in the first rows and columns, else zeros.

    Units of an MLP and heads of an attention may stand in any order, so the survivors can stand first; where
    their place matters (packed projections, ALiBi, norms over what was cut) the result would differ, which
    is found by comparing logits.

    Raises:
        ValueError: the model cannot be padded.
    """
    dense = build(stock_class(type(model)), dense_config(model.config)).to_empty(device="cpu").to(model.dtype)
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, tensor in [*dense.named_parameters(), *dense.named_buffers()]:
            if name not in own or own[name].dim() != tensor.dim():
                raise ValueError(f"{name} has no place in the dense architecture; export as hf instead")
            tensor.zero_()
            tensor[tuple(slice(size) for size in own[name].shape)] = own[name]
    dense.tie_weights()
    dense.generation_config = model.generation_config
    check_same(model, dense.eval())
    return dense


@torch.no_grad()
def check_same(model: "PreTrainedModel", dense: "PreTrainedModel") -> None:
    """Raise ValueError unless both give the same logits."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    one, other = model(ids, use_cache=False).logits, dense(ids, use_cache=False).logits
    difference = float((one - other).abs().max() / one.abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"padding changes this {type(model).__name__} (logits by {difference:.1e}): in it the place of "
            "what was kept matters, as in packed projections or ALiBi; export as hf instead"
        )
