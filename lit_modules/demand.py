"""What a recovery asks of each rank's memory, and how long it takes: formulas, no measurements."""

from dataclasses import dataclass

ADAMW_BYTES = 8
"""fp32 first and second moment of every trained parameter."""

FP32_BYTES = 4
BUCKET = 200_000_000
"""Elements of DeepSpeed's communication buckets, as Lightning sets them; one to gather, one to reduce."""


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to hold and to compute, before it is shared out.

    Attributes:
        frozen, trained: parameters.
        frozen_bytes, trained_bytes: of each such parameter as the model computes with it; 2 in bf16.
        activations: bytes that autograd keeps of one batch's forward pass, output layer left out.
        logits: at most so many of a batch's are made: tokens × vocabulary.
        teacher_bytes: weights of a teacher on the same device.
        flops_per_token: of forward and backward pass (`training_flops`).
    """

    frozen: int
    trained: int
    frozen_bytes: int
    trained_bytes: int
    activations: int
    logits: int
    teacher_bytes: int
    flops_per_token: float


@dataclass(frozen=True, slots=True)
class Sharing:
    """How ranks part the load: ZeRO stage 0 (DDP, or one rank) to 3, and what lies in CPU memory."""

    world_size: int = 1
    stage: int = 0
    offload_optimizer: bool = False
    offload_weights: bool = False


def memory_per_rank(load: Load, sharing: Sharing) -> dict[str, float]:
    """Bytes that each rank needs at most, by what needs them; "offloaded" lies in CPU memory.

    With F frozen parameters of f bytes, T trained of t bytes, N ranks and ZeRO stage z
    (Rajbhandari et al. 2020, 3):

        weights      fF + tT                         / N where z = 3
        gradients    tT                              / N where z >= 2
        optimizer    8T, and 4T more where t < 4     / N where z >= 1
        activations  what autograd keeps of a batch (`kept_bytes`)
        logits       12 bytes for each: in fp32 the logits, log-probabilities and gradient
        teacher      its weights                     / N where z = 3
        buckets      N > 1: tT under DDP, else 2 × min(T or, where z = 3, F + T; 2·10⁸) × t
    """
    ranks, stage = sharing.world_size, sharing.stage
    bucket = load.trained if stage < 3 else load.frozen + load.trained
    optimizer = (ADAMW_BYTES + (FP32_BYTES if load.trained_bytes < FP32_BYTES else 0)) * load.trained
    needs: dict[str, float] = {
        "weights": load.frozen_bytes * load.frozen + load.trained_bytes * load.trained,
        "gradients": load.trained_bytes * load.trained,
        "optimizer": optimizer,
        "activations": load.activations,
        "logits": 3 * FP32_BYTES * load.logits,
        "teacher": load.teacher_bytes,
        "buckets": (min(bucket, BUCKET) * 2 if stage else load.trained) * load.trained_bytes,
    }
    for name, least in {"weights": 3, "teacher": 3, "gradients": 2, "optimizer": 1}.items():
        needs[name] /= ranks if stage >= least else 1
    needs["buckets"] *= ranks > 1
    offloaded = {"optimizer": sharing.offload_optimizer, "weights": sharing.offload_weights}
    needs["offloaded"] = sum(needs.pop(name) for name, is_there in offloaded.items() if is_there)
    return needs


def hours(tokens: float, load: Load, sharing: Sharing, flops_per_second: float, mfu: float) -> float:
    """Time for `tokens` (padding among them) on all ranks, each reaching `mfu` of its peak."""
    return tokens * load.flops_per_token / (sharing.world_size * flops_per_second * mfu) / 3600
