"""What a run will need, from its configuration: memory of a rank, steps, tokens and hours."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lit_modules.adapters import LoRA, add_adapters
from lit_modules.demand import Load, Sharing
from lit_modules.flops import training_flops
from lit_modules.walk import kept_bytes
from pruner.checkpoint import load_config
from pruner.discovery import discover
from pruner.pipeline import PruningSettings
from pruner.pipeline.preview import preview
from pruner.surgery import remove

PUBLISHED = {"yahma/alpaca-cleaned": 51_760, "MBZUAI/LaMini-instruction": 2_585_615}
"""Records of the data sets that go by a short name."""

PACKED = 0.99
"""Share of a packed row that best fit fills with instruction data (`bundling.packed`)."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is trained on.

    Attributes:
        samples: seen in all.
        tokens: processed in all, padding among them.
        steps: of the optimizer.
    """

    samples: float
    tokens: float
    steps: int


def sharing_of(trainer: Mapping[str, Any]) -> Sharing:
    """Ranks and ZeRO stage of a configuration's trainer.

    Raises:
        ValueError: the number of devices is left to the machine.
    """
    devices = 1 if (trainer["accelerator"], trainer["devices"]) == ("cpu", "auto") else trainer["devices"]
    if not str(devices).isdigit() and not isinstance(devices, list):
        raise ValueError(f"trainer.devices must be a number for an estimate, e.g. 1, got {devices}")
    per_node = len(devices) if isinstance(devices, list) else int(devices)
    ranks, strategy = per_node * int(trainer["num_nodes"]), trainer["strategy"]
    if not isinstance(strategy, str):
        chosen = strategy["init_args"]
        return Sharing(ranks, chosen["stage"], chosen["offload_optimizer"], chosen["offload_parameters"])
    stage = next((each for each in (1, 2, 3) if f"deepspeed_stage_{each}" in strategy), 0)
    offloads = strategy.endswith("_offload")
    return Sharing(ranks, stage or 2 * (strategy == "deepspeed"), offloads, offloads and stage == 3)


def row_length(data: Mapping[str, Any]) -> int:
    """Tokens of a row, padding among them."""
    packs = data["batching"] == "packed" and data["pack_length"]
    return int(packs or data["max_length"])


def pruned_shapes(name: str, settings: PruningSettings, *, trust_remote_code: bool = False) -> Any:
    """The model that pruning will leave, on the meta device; no weight is read."""
    from transformers import AutoModelForCausalLM

    plan = preview(name, settings, trust_remote_code=trust_remote_code)
    config = load_config(name, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    remove(empty, discover(empty).groups, plan.kept)
    return empty


def load_of(
    empty: Any, model: Mapping[str, Any], data: Mapping[str, Any], trainer: Mapping[str, Any]
) -> Load:
    """What there is to hold and to compute.

    Args:
        empty: the pruned model on the meta device; it is used up.
        model, data, trainer: sections of the configuration.
    """
    lora = None if model["lora"] is None else LoRA(**model["lora"])
    half, sharded = (
        str(trainer["precision"]).startswith("bf16"),
        "deepspeed" in str(trainer["strategy"]).lower(),
    )
    narrow = {"bf16": True, "fp32": False, "auto": lora and trainer["accelerator"] != "cpu"}[model["dtype"]]
    dtype = torch.bfloat16 if narrow or (half and sharded) else torch.float32
    config, rows, length = empty.config, int(data["batch_size"]), row_length(data)
    empty = empty.to(dtype)
    adapted = add_adapters(empty, lora) if lora else empty
    counts = dict.fromkeys((False, True), 0)
    for parameter in adapted.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    recomputed = bool(model["gradient_checkpointing"])
    flops = training_flops(adapted, recomputed=recomputed)
    kept = kept_bytes(adapted, rows, length, autocast=half and not sharded)
    if recomputed:
        layers = config.num_hidden_layers
        kept = kept // layers + layers * rows * length * config.hidden_size * dtype.itemsize
    return Load(
        frozen=counts[False],
        trained=counts[True],
        frozen_bytes=dtype.itemsize,
        trained_bytes=4 if lora and not (half and sharded) else dtype.itemsize,
        activations=kept,
        logits=rows * length * config.vocab_size,
        teacher_bytes=0,
        flops_per_token=flops,
    )


def with_teacher(load: Load, name: str, *, on_gpu: bool, beside: bool) -> Load:
    """The load with a dense model that is asked for every token; its weights count where it is `beside`."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        dense = AutoModelForCausalLM.from_config(load_config(name))
    size: int = sum(each.numel() for each in dense.parameters())
    held = size * (2 if on_gpu else 4) if beside else 0
    return replace(load, teacher_bytes=held, flops_per_token=load.flops_per_token + 2 * size)


def extent_of(
    data: Mapping[str, Any], trainer: Mapping[str, Any], sharing: Sharing, samples: float, mean_length: float
) -> Extent:
    """Steps, samples and tokens of a whole run.

    Args:
        data, trainer: sections of the configuration.
        sharing: its ranks.
        samples: learned in one pass.
        mean_length: tokens of a sample without padding.
    """
    packed, length = data["batching"] == "packed", row_length(data)
    per_row = length * PACKED / mean_length if packed else 1.0
    step_rows = int(data["batch_size"]) * int(trainer["accumulate_grad_batches"]) * sharing.world_size
    per_pass = max(1, int(samples / per_row) // step_rows)
    limit = int(trainer["max_steps"])
    steps = limit if limit > 0 else per_pass * int(trainer["max_epochs"] or 1)
    width = mean_length if data["batching"] == "by_length" else length
    return Extent(steps * step_rows * per_row, steps * step_rows * width, steps)
