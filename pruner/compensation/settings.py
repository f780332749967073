"""What a user says about compensation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Compensation:
    """How the projections that lose inputs are refitted.

    Attributes:
        damping: pull towards the dense weights, relative to the mean square of the inputs.
        drift: share of the residual stream's drift so far that a refit makes good, 0 to 1.
        batch_size: samples that walk through a layer at once; no influence on the result.
        streams: folder for the two streams of hidden states as files, where memory has no room; no influence
            on the result.
    """

    damping: float = 0.1
    drift: float = 0.5
    batch_size: int = 16
    streams: str | None = None

    def __post_init__(self) -> None:
        if self.damping <= 0 or not 0 <= self.drift <= 1 or self.batch_size < 1:
            raise ValueError(
                "compensation needs damping above 0, drift between 0 and 1 and batch_size of at least 1, got "
                f"{self.damping}, {self.drift} and {self.batch_size}"
            )
