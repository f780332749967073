"""Low-rank adapters on the pruned model, through PEFT."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)  # without slots: jsonargparse reads vars() of a default
class LoRA:
    """LoRA with the paper's values: rank 8, alpha 16, dropout .05, every projection of the decoder.

    Attributes:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: on the adapters' input.
        target_modules: name endings, e.g. [q_proj, v_proj]; `all-linear` for all but the output layer.
        options: any further argument of peft.LoraConfig, e.g. {use_rslora: true}.
    """

    r: int = 8
    alpha: int = 16
    dropout: float = 0.05
    target_modules: list[str] | str = "all-linear"
    options: Mapping[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """As plain values, to be compared with a checkpoint's."""
        return {**asdict(self), "options": dict(self.options)}


def add_adapters(model: "PreTrainedModel", lora: LoRA) -> "PeftModel":
    """Freeze `model` and wrap it with fp32 adapters.

    Raises:
        ValueError: PEFT knows no such option, or the model no such modules.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    try:
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            **lora.options,
        )
        adapted = get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model.lora does not fit PEFT or the model: {error}") from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return adapted


def with_weights(model: "PreTrainedModel", lora: LoRA | None, weights: Mapping[str, Tensor]) -> Any:
    """Set what a recovery trained; under LoRA the result is a PeftModel around `model`.

    Args:
        model: the pruned model; changed.
        lora: the recovery's adapters; None where all weights were trained.
        weights: name in the result -> value.

    Raises:
        ValueError: the model has no place for some of `weights`.
    """
    whole: Any = add_adapters(model, lora) if lora else model
    unknown = whole.load_state_dict(weights, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"the model has no place for {len(unknown)} trained weights, first {unknown[0]}")
    return whole
