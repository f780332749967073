"""Calibration shared among processes: each looks at its part of the samples, and their sums meet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

PARCEL = 1 << 24
"""Most elements of several tensors that are packed into one all-reduce."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that calibrate together, each with the whole model.

    Every process calls the same functions in the same order; what they decide is the same on all, and to
    rounding what one process alone would decide.

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_group(cls, num_samples: int | None = None) -> "Ranks":
        """The default process group; every process for itself where there is none, or a sample too few."""
        if not dist.is_initialized() or (num_samples is not None and num_samples < dist.get_world_size()):
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, samples: Tensor) -> Tensor:
        """This process's part of (num_samples, ...)."""
        return samples.tensor_split(self.size)[self.rank]

    def first(self, num_samples: int) -> int:
        """Number of the first sample of this process's part."""
        return sum(len(part) for part in torch.arange(num_samples).tensor_split(self.size)[: self.rank])

    def add(self, *totals: Tensor, through: torch.device | None = None) -> None:
        """Replace each tensor by its sum over the processes, met on `through` or the tensor's own device.

        Neighbours of one type and device are packed into one all-reduce, up to `PARCEL` elements.
        """
        if self.size > 1:
            for parcel in parcels(totals):
                flat = [total.reshape(-1).to(through or total.device) for total in parcel]
                meeting = torch.cat(flat) if len(flat) > 1 else flat[0]
                dist.all_reduce(meeting)
                for total, summed in zip(parcel, meeting.split([len(part) for part in flat])):
                    total.copy_(summed.view_as(total))

    def agree(self, units: tuple[int, ...], device: torch.device) -> tuple[int, ...]:
        """What the first process decided, as many units on each."""
        if self.size == 1:
            return units
        decided = torch.tensor(units, device=device)
        dist.broadcast(decided, 0)
        return tuple(decided.tolist())

    def hear(self, measured: float, device: torch.device) -> float:
        """What the first process measured, on each."""
        if self.size == 1:
            return measured
        told = torch.tensor(measured, dtype=torch.float64, device=device)
        dist.broadcast(told, 0)
        return told.item()


def parcels(tensors: Sequence[Tensor], most: int = PARCEL) -> Iterator[list[Tensor]]:
    """Neighbours of one type and device with at most `most` elements together; a larger tensor by itself."""
    parcel: list[Tensor] = []
    for tensor in tensors:
        fits = sum(each.numel() for each in parcel) + tensor.numel() <= most
        if parcel and not (fits and tensor.dtype == parcel[0].dtype and tensor.device == parcel[0].device):
            yield parcel
            parcel = []
        parcel.append(tensor)
    if parcel:
        yield parcel


ALONE = Ranks()
