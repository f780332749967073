"""What discovery finds in a model: its groups, its decoder layers, and what it refuses to touch."""

from dataclasses import dataclass

from pruner.groups import Group


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that discovery will not prune, and why.

    Attributes:
        name: the module or group concerned.
        reason: the operator and the line of the model's code, or the rule that is broken.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Structure:
    """The prunable structure of one model.

    Attributes:
        groups: what can be removed, in the order of the model's layers.
        layers: module names of the decoder layers in order, e.g. "model.layers.0".
        refused: what was left alone.
    """

    groups: tuple[Group, ...]
    layers: tuple[str, ...]
    refused: tuple[Refusal, ...]
