"""How much is to go, as a user says it, and as a number of parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pruner.groups import Shapes, count_parameters

DEFAULT_RATIO = 0.2


@dataclass(frozen=True)
class Budget:
    """How much goes.

    Attributes:
        ratio: share of the decoder layers' parameters to remove, in [0, 1); embeddings and head not counted.
            0.2 where no target is given either.
        round_to: MLP widths become multiples of this; None for the largest power of two, up to 64, that is
            no more than 1 % of the width.
        target_parameters: parameters that the whole model may have left. Of this, the other targets and
            `ratio`, one may be given.
        target_bytes: bytes that they may take.
        bytes_per_parameter: in the type that they will be kept in: 2 for bfloat16, 0.5 for four bits.
        target_macs: multiply-accumulates for each token of a pass over 128, as in `llm-prune evaluate`.
        target_latency: seconds for each token generated, one sequence at a time, measured on this machine.
        widths: kind -> units that every unprotected layer keeps, in the place of a share or target: channels
            for mlp; heads, or key-value groups with their heads, for attention. What has no more keeps all.
        tensor_parallel: GPUs that will share each layer: the channels and attention units that stay divide
            by their number.
        layers: decoder layers that go whole, those whose absence raises the calibration text's loss least
            (SLEB, Song et al. 2024); widths give the rest of the budget.
    """

    ratio: float | None = None
    round_to: int | None = None
    target_parameters: int | None = None
    target_bytes: int | None = None
    bytes_per_parameter: float = 2.0
    target_macs: int | None = None
    target_latency: float | None = None
    widths: Mapping[str, int] | None = None
    tensor_parallel: int = 1
    layers: int = 0

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise ValueError(
                f"budget.ratio is the share of parameters to remove and must be in [0, 1), got {self.ratio}; "
                "for '20 % smaller' write 0.2"
            )
        if self.round_to is not None and self.round_to < 1:
            raise ValueError(f"budget.round_to must be 1 or more, got {self.round_to}; 1 means no rounding")
        given = self.targets
        if len(given) > 1 or any(value <= 0 for value in (*given.values(), self.bytes_per_parameter)):
            raise ValueError(f"of the budget's targets one may be given, above 0; got {given}")
        if given and self.ratio is not None:
            raise ValueError(
                f"budget.ratio is {self.ratio}, and {given} is asked for too: both say how much goes; leave "
                "the target out, or set budget.ratio to null"
            )
        if self.widths is not None and (given or self.ratio is not None):
            other: Mapping[str, float | None] = given or {"ratio": self.ratio}
            raise ValueError(
                f"budget.widths says what every layer keeps, and {other} how much goes: leave one out, or "
                "set it to null"
            )
        if self.widths is not None and (not self.widths or min(self.widths.values()) < 1):
            raise ValueError(
                "budget.widths needs kinds of units with how many of each stay, at least 1, such as "
                f"{{mlp: 1024, attention: 2}}; got {dict(self.widths)}"
            )
        if self.tensor_parallel < 1:
            raise ValueError(f"budget.tensor_parallel counts GPUs, from 1; got {self.tensor_parallel}")
        if self.layers < 0:
            raise ValueError(f"budget.layers counts decoder layers to remove, got {self.layers}")

    @property
    def targets(self) -> dict[str, float]:
        """The targets that are given, by name."""
        names = (name for name in vars(self) if name.startswith("target_"))
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def share(self) -> float | None:
        """The share of the decoder that is to go, None where a target or widths say how much."""
        others = self.targets or self.widths
        return DEFAULT_RATIO if self.ratio is None and not others else self.ratio

    @property
    def is_measured(self) -> bool:
        """Whether what goes depends on what smaller models are measured to need."""
        return self.target_macs is not None or self.target_latency is not None

    def asked(self, shapes: Shapes, layers: Sequence[str]) -> float:
        """Parameters to remove from a model of these shapes and decoder layers.

        Raises:
            ValueError: it has no more than the target as it is.
        """
        target = self.target_parameters
        if self.target_bytes is not None:
            target = int(self.target_bytes / self.bytes_per_parameter)
        if target is None:
            return (self.share or 0.0) * decoder_parameters(shapes, layers)
        whole = count_parameters(shapes, [], {})
        if target > whole:
            raise ValueError(
                f"the budget allows {target:,} parameters, and the model has {whole:,}; ask for fewer"
            )
        return float(whole - target)


def decoder_parameters(shapes: Shapes, layers: Sequence[str]) -> int:
    """Parameters inside the decoder layers: what `Budget.ratio` is a share of."""
    return count_parameters(inside(shapes, layers), [], {})


def inside(shapes: Shapes, layers: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of what belongs to the decoder layers."""
    prefixes = tuple(f"{layer}." for layer in layers)
    return {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}
