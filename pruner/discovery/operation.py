"""One operator and what is known of its tensors: what a rule sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pruner.discovery.constraints import Constraints
from pruner.discovery.events import Event
from pruner.discovery.labels import CONSTANT, Axes, Labels, State
from pruner.discovery.matching import match
from pruner.discovery.values import Values


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One event together with what is known of its tensors: what a rule sees."""

    event: Event
    states: States
    constraints: Constraints

    @property
    def args(self) -> tuple[Any, ...]:
        """The operator's positional arguments."""
        return self.event.args

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The tensors that came out."""
        return self.event.outputs

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that may have been passed by position or by name."""
        return self.args[position] if len(self.args) > position else self.event.kwargs.get(name, default)

    def state(self, tensor: Any) -> State:
        """What is known of a tensor; constants of anything else."""
        return self.states.of(tensor) if isinstance(tensor, Tensor) else CONSTANT

    def axes(self, tensor: Any) -> Axes:
        """A tensor's facets by axis."""
        return self.state(tensor).axes()

    def value(self, tensor: Tensor) -> Tensor | None:
        """A tensor's value, where it is a constant."""
        return self.states.values.of(tensor) if self.state(tensor).origin != "data" else None

    def match(self, ours: Sequence[Labels], theirs: Sequence[Labels]) -> list[Labels]:
        """Two tensors meet along an axis; see `pruner.discovery.matching.match`."""
        return match(self.constraints, ours, theirs)

    def freeze(self, labels: Iterable[Labels], why: str) -> None:
        """These atoms cannot go."""
        for each in labels:
            self.constraints.mark("frozen", each, f"{self.event.name}: {why}")

    def each(self, state: State) -> list[State]:
        """One state for every output."""
        return [state for _ in self.outputs]

    def met(self, axes: Iterable[Axes]) -> Axes:
        """The facets of several tensors of one shape, matched axis by axis."""
        found: Axes = {}
        for part in axes:
            for dim, labels in part.items():
                found[dim] = self.match(found.get(dim, []), labels)
        return found


class States:
    """The state of every tensor so far; parameters get their atoms when they are first met."""

    def __init__(self, model: nn.Module, constraints: Constraints, values: Values) -> None:
        self.values = values
        self.constraints = constraints
        self.named: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
        self.named |= {id(b): name for name, b in model.named_buffers() if b.is_floating_point()}
        self.known: dict[int, State] = {}
        self.lost: dict[int, str] = {}  # tensors that come unlabelled from an operator without a rule
        self._alive: list[Tensor] = []

    def of(self, tensor: Tensor) -> State:
        """A tensor's state."""
        state = self.known.get(id(tensor))
        if state is not None:
            return state
        name = self.named.get(id(tensor))
        if name is None:
            return CONSTANT
        state = State(self.constraints.own(name, tensor.shape), parameter=True)
        self.set(tensor, state)
        return state

    def set(self, tensor: Tensor, state: State) -> None:
        """Remember a tensor's state; the tensor is kept alive, its identity is the key."""
        self.known[id(tensor)] = state
        self._alive.append(tensor)
