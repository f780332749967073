"""A DeepSpeed configuration beside the run's own: what both say must agree, the rest is filled in."""

from collections.abc import Mapping
from typing import Any

STAGES = (1, 2, 3)

SAID_BY = {
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "train_micro_batch_size_per_gpu": "data.batch_size",
    "train_batch_size": "data.batch_size, trainer.accumulate_grad_batches and the number of ranks",
    "gradient_clipping": "trainer.gradient_clip_val",
    "bf16": "trainer.precision",
    "fp16": "trainer.precision; fp16 overflows where bf16 does not, and is not supported",
    "optimizer": "model.learning_rate, betas and weight_decay",
    "scheduler": "model.schedule and warmup_steps",
}
"""Key of a DeepSpeed configuration -> where the run says it."""


def asked(trainer: Any) -> dict[str, Any]:
    """What a trainer and its data say of the values that a DeepSpeed configuration may also hold."""
    batch_size = getattr(trainer.datamodule, "batch_size", None)
    accumulation = trainer.accumulate_grad_batches
    return {
        "gradient_accumulation_steps": accumulation,
        "train_micro_batch_size_per_gpu": batch_size,
        "train_batch_size": batch_size and batch_size * accumulation * trainer.world_size,
        "gradient_clipping": float(trainer.gradient_clip_val or 0.0),
        "bf16": str(trainer.precision).startswith("bf16"),
        "fp16": False,
        "optimizer": None,
        "scheduler": None,
        "precision": str(trainer.precision),
    }


def reconcile(config: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Fill a DeepSpeed configuration with what the run asks for; "auto" means just that.

    Args:
        config: changed in place.
        wanted: as from `asked`.

    Raises:
        ValueError: the configuration says something else than the run, or what is not supported.
    """
    check_supported(config, wanted["precision"])
    wrong = [
        f"{key}: {config[key]!r}, but {SAID_BY[key]}: {wanted[key]!r}"
        for key in SAID_BY
        if not agrees(key, config.get(key, "auto"), wanted[key])
    ]
    if wrong:
        raise ValueError(
            "the DeepSpeed configuration contradicts the run: " + "; ".join(wrong) + ". Remove these keys "
            'from it, or set them to "auto": the run says it all'
        )
    for key in {*SAID_BY} - {"bf16"}:
        config.pop(key, None)
    if "bf16" in config:
        config["bf16"]["enabled"] = wanted["bf16"]
    config["train_micro_batch_size_per_gpu"] = wanted["train_micro_batch_size_per_gpu"] or 1
    config["zero_force_ds_cpu_optimizer"] = False
    config["zero_allow_untested_optimizer"] = True


def check_supported(config: Mapping[str, Any], precision: str) -> None:
    """Raise ValueError for fp16, for a ZeRO stage other than 1 to 3, and for offloading to NVMe."""
    if precision.startswith("16"):
        raise ValueError("trainer.precision 16 overflows where bf16 does not; choose bf16-mixed or 32-true")
    zero = config.get("zero_optimization", {})
    if zero.get("stage") not in STAGES:
        raise ValueError(f"zero_optimization.stage must be 1, 2 or 3, got {zero.get('stage')}; else use ddp")
    places = {zero.get(key, {}).get("device", "none") for key in ("offload_optimizer", "offload_param")}
    if "nvme" in places:
        raise ValueError("offloading to NVMe is not supported; offload to cpu, or use more ranks")


def agrees(key: str, said: Any, wanted: Any) -> bool:
    """Whether a DeepSpeed configuration's value is the run's, or leaves it open."""
    if said == "auto" or said is None:
        return True
    if key in ("bf16", "fp16"):
        return bool(said.get("enabled", False) in (wanted, "auto"))
    return bool(said == wanted)
