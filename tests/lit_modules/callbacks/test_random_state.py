"""A restored state draws the same numbers again."""

import random

import numpy as np
import torch
from safetensors.torch import load, save

from lit_modules.callbacks.random_state import random_state, restore_random_state


def draw():
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]


def test_every_generator_continues_where_it_was_saved_also_through_a_file():
    random.gauss(0, 1)
    np.random.randn()
    saved = save(random_state())
    expected = draw()
    assert draw() != expected
    restore_random_state(load(saved))
    assert draw() == expected
