"""A batch size that fits: halved as often as memory runs out."""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

Result = TypeVar("Result")

FIRST = {"cuda": 64, "cpu": 8}
"""Where the search begins. More rows do not make a CPU faster, which one row keeps busy."""


def first_size(device: torch.device) -> int:
    """The batch size to try first."""
    return FIRST.get(device.type, FIRST["cpu"])


def halving(work: Callable[[int], Result], batch_size: int) -> Result:
    """`work(batch_size)`, begun anew with half of it where memory runs out.

    Raises:
        ValueError: memory does not suffice for a single row.
    """
    while True:
        try:
            return work(batch_size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            said = str(error).splitlines()[0]
        if batch_size == 1:
            raise ValueError(
                f"memory does not suffice for one row ({said}); lower evaluation.seq_len, or choose "
                "a smaller evaluation.dtype"
            )
        batch_size //= 2
        log.info("out of memory; going on with a batch size of %d", batch_size)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a GPU's or the CPU's memory is used up."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
