"""Learning rates over a run: a linear warmup, then cosine, linear or none."""

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["cosine", "linear", "constant"]


def rate_factor(schedule: Schedule, step: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate at optimizer step `step` of `total`, in [0, 1]."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if schedule == "linear" else 1.0


def scheduler(optimizer: Optimizer, schedule: Schedule, warmup: int, total: int) -> LambdaLR:
    """A scheduler to be advanced once per optimizer step."""
    return LambdaLR(optimizer, lambda step: rate_factor(schedule, step, warmup, total))
