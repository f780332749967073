"""Ridge least squares from streamed moments: the weights that best do what was asked with what remains."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruner.ranks import Ranks

SILENT = 1e-20
"""Damping where no input is ever anything but 0: the weights stay what they are."""


class Moments:
    """Streamed means over tokens of a projection's inputs and the outputs wanted of it.

    Attributes:
        gram: E[a aᵀ], (in, in) fp32.
        cross: E[a tᵀ], (in, out) fp32.
        inputs: E[a], (in,) fp32.
        targets: E[t], (out,) fp32.
        count: tokens seen.
    """

    def __init__(self, num_inputs: int, num_outputs: int, device: torch.device | str = "cpu") -> None:
        self.gram = torch.zeros(num_inputs, num_inputs, device=device)
        self.cross = torch.zeros(num_inputs, num_outputs, device=device)
        self.inputs = torch.zeros(num_inputs, device=device)
        self.targets = torch.zeros(num_outputs, device=device)
        self.count = 0

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Add tokens: (..., in) and (..., out)."""
        inputs, targets = inputs.flatten(0, -2).float(), targets.flatten(0, -2).float()
        self.count += len(inputs)
        weight = 1 / self.count
        for mean, total in (
            (self.gram, inputs.T @ inputs),
            (self.cross, inputs.T @ targets),
            (self.inputs, inputs.sum(0)),
            (self.targets, targets.sum(0)),
        ):
            mean.mul_(1 - weight * len(inputs)).add_(total, alpha=weight)

    def meet(self, ranks: Ranks) -> None:
        """Make the means those over the tokens of all processes."""
        count = torch.tensor(float(self.count), dtype=torch.float64, device=self.gram.device)
        ranks.add(count)
        share = self.count / count.item()
        means = (self.gram, self.cross, self.inputs, self.targets)
        for mean in means:
            mean.mul_(share)
        ranks.add(*means)
        self.count = round(count.item())

    def second(self, bias: bool) -> tuple[Tensor, Tensor]:
        """E[a aᵀ] and E[a tᵀ], or where a bias takes the means up, the covariances."""
        if not bias:
            return self.gram, self.cross
        return (
            self.gram - self.inputs[:, None] * self.inputs,
            self.cross - self.inputs[:, None] * self.targets,
        )


def ridge(gram: Tensor, cross: Tensor, weight: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """argmin_W E|aᵀW − t|² + λ|W − weight|²: least squares that hold on to the weights there were.

    Args:
        gram: H = E[a aᵀ], (in, in), or the covariance where a bias is fitted too.
        cross: E[a tᵀ], (in, out), likewise.
        weight: (in, out).
        damping: λ relative to the mean diagonal of `gram`.

    Returns:
        W, (in, out) fp32, and the Cholesky factor of H + λI, (in, in) fp64.
    """
    strength = (damping * gram.diagonal().mean().double()).clamp(min=SILENT)
    factor = gram.double()
    factor.diagonal().add_(strength)
    factor = torch.linalg.cholesky(factor)
    fitted = torch.cholesky_solve(cross.double() + strength * weight.double(), factor)
    return fitted.float(), factor


def optimum(gram: Tensor, cross: Tensor, weight: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The best weight with all inputs, (in, out), and the damped H⁻¹, (in, in), both fp32; see `ridge`."""
    fitted, factor = ridge(gram, cross, weight, damping)
    inverse = torch.cholesky_inverse(factor)
    del factor  # as large as the inverse
    return fitted, inverse.float()


def refit(
    moments: Moments,
    weight: Tensor,
    inputs: NDArray[np.int64],
    damping: float,
    bias: bool,
    weights: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """The projection of the inputs that remain which comes nearest to the targets.

    Args:
        moments: over all inputs.
        weight: (in, out), of all inputs.
        inputs: those that remain.
        damping: see `ridge`.
        bias: fit one too; it is not damped.
        weights: False leaves the weights as they are. What a bias alone can make good is the means of the
            inputs that went (FLAP, An et al. 2024, section 3.3).

    Returns:
        (len(inputs), out) and (out,) or None.
    """
    rows = torch.as_tensor(inputs, device=weight.device)
    fitted = weight[rows].float()
    if weights:
        gram, cross = moments.second(bias)
        fitted, _ = ridge(gram[rows][:, rows], cross[rows], fitted, damping)
    return fitted, moments.targets - moments.inputs[rows] @ fitted if bias else None
