"""What a user says about compensation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Compensation:
    """How the projections that lose inputs are refitted.

    Attributes:
        damping: pull towards the dense weights, relative to the mean square of the inputs.
        weights: refit the weights; without, a bias alone makes good what it can.
        bias: give a bias to projections that have none, where the architecture has a place for one; not
            counted against the budget.
        drift: share of the residual stream's drift so far that a refit makes good, 0 to 1.
        batch_size: samples that walk through a layer at once, None for 2,048 tokens; no influence on the
            result.
        epochs: passes over the text in which the decoder's weights, all of them, learn the dense model's
            predictions once the refits are done; 0 for none.
        divergence: share of the divergence from the dense model in those passes' loss, the rest is
            cross-entropy with the text; 1 where the text is not what the model is for.
        learning_rate: of those passes, relative to the root mean square of each weight matrix.
        streams: folder for the two streams of hidden states as files, where memory has no room; no influence
            on the result.
    """

    damping: float = 0.1
    weights: bool = True
    bias: bool = False
    drift: float = 0.5
    batch_size: int | None = None
    epochs: int = 1
    divergence: float = 0.7
    learning_rate: float = 1.5e-3
    streams: str | None = None

    def __post_init__(self) -> None:
        too_few = self.batch_size is not None and self.batch_size < 1
        if self.damping <= 0 or not 0 <= self.drift <= 1 or too_few:
            raise ValueError(
                "compensation needs damping above 0, drift between 0 and 1 and batch_size of at least 1, got "
                f"{self.damping}, {self.drift} and {self.batch_size}"
            )
        if not self.weights and not self.bias:
            raise ValueError(
                "compensation without weights and bias does nothing; leave one on, or set compensation "
                "to null"
            )
        if self.epochs < 0 or self.learning_rate <= 0 or not 0 <= self.divergence <= 1:
            raise ValueError(
                "compensation needs epochs of at least 0, a learning_rate above 0 and divergence between 0 "
                f"and 1, got {self.epochs}, {self.learning_rate} and {self.divergence}"
            )
