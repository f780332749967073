"""All random generators of one process as tensors, so that they can be saved without pickling."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state() -> dict[str, Tensor]:
    """The states of Python's, numpy's, torch's and, if there is one, the current GPU's generator."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=True)
    _, keys, position, has_gauss, cached = numpy_state
    state = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([position, has_gauss, *keys.tolist()], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    """Set the generators to what `random_state` returned."""
    version, *words = state["python"].tolist()
    random.setstate((version, tuple(words), next(iter(state["python_gauss"].tolist()), None)))
    position, has_gauss, *keys = state["numpy"].tolist()
    keys_array = np.array(keys, dtype=np.uint32)
    np.random.set_state(("MT19937", keys_array, position, has_gauss, state["numpy_gauss"].item()))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
