"""Steps of gradient descent that need no more memory than a row and a column of each weight matrix."""

import torch
from torch import Tensor

SMALL = 1e-30
DROPPED = {torch.bfloat16: 16, torch.float16: 13}
"""Bits of an fp32 number's mantissa that these have not."""


class Factored:
    """Adafactor without momentum (Shazeer and Stern 2018, algorithm 4), relative to each matrix's size.

    The second moment of a matrix's gradient is kept as its means over rows and over columns; the update is
    clipped to a root mean square of one and scaled by the matrix's own. What torch.optim.Adafactor does with
    fp32 weights; that one steps in the weights' own precision, in which bfloat16 would lose most steps.

    Attributes:
        rate: the next step's, relative to the root mean square of the weights.
    """

    def __init__(self) -> None:
        self.rate = 0.0
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._steps: dict[str, int] = {}

    @torch.no_grad()
    def step(self, name: str, weight: Tensor, gradient: Tensor) -> None:
        """Change `weight`, (..., rows, columns), in place; where no sample has touched it, leave it.

        The gradient, of the same shape, is used up.
        """
        gradient = gradient.float()
        rows, columns = mean_square(gradient, -1), mean_square(gradient, -2)
        if not rows.any():
            return
        if name not in self._moments:
            self._moments[name] = torch.zeros_like(rows), torch.zeros_like(columns)
        count = self._steps[name] = self._steps.get(name, 0) + 1
        for moment, new in zip(self._moments[name], (rows, columns)):
            moment.lerp_(new + SMALL, count**-0.8)
        rows, columns = self._moments[name]
        update = gradient.mul_((rows / rows.mean(-2, keepdim=True)).rsqrt()).mul_(columns.rsqrt())
        both = (-2, -1)
        size, length = mean_square(weight.float(), both).sqrt(), mean_square(update, both).sqrt()
        update *= self.rate * size / length.clamp(min=1)
        if weight.dtype in DROPPED:
            weight.copy_(rounded(weight.float() - update, weight.dtype, seed=count))
        else:
            weight.sub_(update)


def mean_square(values: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """Over one or two dimensions, which stay with length 1; no squares are stored."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=dim, keepdim=True)
    return norms.square_().mul_(norms.numel() / values.numel())


def rounded(values: Tensor, dtype: torch.dtype, seed: int) -> Tensor:
    """fp32 values in `dtype`; to half of it at random, so that steps below its precision count on average."""
    if dtype not in DROPPED:
        return values.to(dtype)
    dropped = 1 << DROPPED[dtype]
    drawn = torch.Generator(values.device).manual_seed(seed)
    noise = torch.randint(dropped, values.shape, generator=drawn, dtype=torch.int32, device=values.device)
    bits = values.contiguous().view(torch.int32).add(noise).bitwise_and(-dropped)
    return bits.view(torch.float32).to(dtype)
