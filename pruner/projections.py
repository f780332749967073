"""The linear projections that read what groups produce, whichever class holds their weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pruner.groups import Group


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """The projection that consumes a group's activation: down_proj, o_proj.

    Attributes:
        group: the group whose activation it reads.
        module: name of the linear module.
        index: (num_units, width) int64; the inputs that belong to each unit.
    """

    group: Group
    module: str
    index: NDArray[np.int64]

    def inputs_of(self, units: Sequence[int]) -> NDArray[np.int64]:
        """The inputs, ascending, that belong to `units`."""
        return np.sort(self.index[np.asarray(units, dtype=np.int64)].reshape(-1))


def projection_of(model: nn.Module, group: Group) -> Projection | None:
    """The one linear projection that reads `group`, None where there is none or there are several."""
    reading = [piece for piece in group.slices if piece.reads]
    if len(reading) != 1 or not reading[0].name.endswith(".weight"):
        return None
    piece = reading[0]
    name = piece.name.removesuffix(".weight")
    module: Any = model.get_submodule(name)
    axis = {nn.Linear: 1, Conv1D: 0}.get(type(module))
    covers = np.array_equal(np.sort(piece.index.reshape(-1)), np.arange(piece.index.size))
    if axis != piece.dim or not covers or piece.index.size != module.weight.shape[piece.dim]:
        return None
    return Projection(group, name, piece.index)


def input_major(module: nn.Linear | Conv1D) -> Tensor:
    """The weight of a Linear or Conv1D as (in, out), a view."""
    weight: Tensor = module.weight
    return weight.T if isinstance(module, nn.Linear) else weight
