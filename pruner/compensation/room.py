"""Where a stream of hidden states lies: in the model's memory, or in a file."""

import math
import os
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor


def room(shape: Sequence[int], dtype: torch.dtype, device: torch.device, folder: str | None) -> Tensor:
    """An empty tensor, on `device` or, with a folder, in a file there that goes when the tensor does.

    Raises:
        OSError: the folder is not there or has no room.
    """
    if folder is None:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * dtype.itemsize)
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype).view(tuple(shape))


def beside(stream: Tensor, folder: str | None) -> Tensor:
    """A copy of a stream where that lies."""
    return room(stream.shape, stream.dtype, stream.device, folder).copy_(stream)
