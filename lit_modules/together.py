"""What all ranks do in step with one another: what one of them meets, each hears of."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer


def gathered(trainer: Trainer, value: Any) -> list[Any]:
    """One value from every rank, on every rank."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


@contextmanager
def ending_together(trainer: Trainer, doing: str) -> Iterator[None]:
    """Wait for all ranks at the end, and fail on every one if one of them failed."""
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    failures = gathered(trainer, repr(failure) if failure else None)
    if failure:
        raise failure
    for rank, message in enumerate(failures):
        if message:
            raise ValueError(f"{doing} failed on rank {rank}: {message}")
