"""The criteria of LLM-Pruner (Ma et al. 2023, section 3.2), a function each: how much an element matters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Saliency = Callable[[Tensor, Tensor, Tensor], Tensor]


def l1(weight: Tensor, grad: Tensor, square: Tensor) -> Tensor:
    """Magnitude |w|."""
    return weight.abs()


def l2(weight: Tensor, grad: Tensor, square: Tensor) -> Tensor:
    """Squared magnitude w²."""
    return weight.square()


def first_order(weight: Tensor, grad: Tensor, square: Tensor) -> Tensor:
    """First-order term of the loss's change when a weight is zeroed, w ∂L/∂w (eq. 3), in nats."""
    return weight * grad


def second_order(weight: Tensor, grad: Tensor, square: Tensor) -> Tensor:
    """Second-order term by the diagonal Fisher, w² Σ_j (∂L_j/∂w)² (eq. 5), in nats."""
    return weight.square() * square


def mixed_order(weight: Tensor, grad: Tensor, square: Tensor) -> Tensor:
    """Both terms of the expansion, w ∂L/∂w − ½ w² Σ_j (∂L_j/∂w)² (eq. 5), in nats."""
    return weight * grad - 0.5 * weight.square() * square


@dataclass(frozen=True, slots=True)
class WeightCriterion:
    """What a criterion on weights needs to know and how its elements add up.

    Attributes:
        saliency: (weight, gradient, mean of the squared gradients of single samples), all of a parameter's
            shape and fp32 -> the same shape.
        gradient: it needs a backward pass.
        per_sample: it needs every sample's own gradient.
        vector: elements are added with their signs, and a member's sum counts by its absolute value;
            otherwise each element does.
        additive: passes over parts of the samples can be folded one by one.
    """

    saliency: Saliency
    gradient: bool = True
    per_sample: bool = False
    vector: bool = False
    additive: bool = True


WEIGHT_CRITERIA: Mapping[str, WeightCriterion] = {
    "l1": WeightCriterion(l1, gradient=False),
    "l2": WeightCriterion(l2, gradient=False),
    "taylor": WeightCriterion(first_order, vector=True),
    "taylor_first": WeightCriterion(first_order, additive=False),
    "taylor_second": WeightCriterion(second_order, per_sample=True),
    "taylor_mix": WeightCriterion(mixed_order, per_sample=True, additive=False),
}

REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda members: members.sum(0),
    "mean": lambda members: members.mean(0),
    "max": lambda members: members.amax(0),
    "product": lambda members: members.prod(0),
    "last": lambda members: members[-1],
}
"""How the scores of a group's members, (members, num_units), become one per unit.

The last member is the projection that reads the group.
"""


def choose(name: str, known: Mapping[str, object], what: str) -> None:
    """Raise ValueError unless `name` is in `known`."""
    if name not in known:
        raise ValueError(f"no {what} {name!r}; there are {', '.join(known)}")


def random_scores(num_units: int, generator: torch.Generator) -> Tensor:
    """(num_units,) fp32, uniform in [0, 1): the baseline that knows nothing."""
    return torch.rand(num_units, generator=generator)
