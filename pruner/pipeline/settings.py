"""What a user says about pruning, as one value."""

from dataclasses import dataclass, field

from pruner.budget import Budget
from pruner.calibration import Calibration
from pruner.compensation import Compensation
from pruner.discovery import WITHIN_LAYERS
from pruner.groups import Kind
from pruner.importance import CRITERIA, NEED_NO_TEXT, REDUCTIONS
from pruner.selection import Granularity


@dataclass(frozen=True)
class PruningSettings:
    """What to remove from a model, and by what signs.

    Attributes:
        budget: how much goes.
        criterion: how units are scored: random, l1, l2, taylor, taylor_first, taylor_second, taylor_mix,
            gate_taylor, gate_fisher, wanda_sp, flap or kronecker (within the walk over the layers: what
            removal costs after the best refit).
        reduction: how the scores of a unit's matrices become one: sum, mean, max, product or last.
        granularity: "block", each layer the same share; "global", the lowest scores wherever they are.
        kinds: what may go: mlp (channels), attention (heads, or key-value groups with their heads).
        protect_first: decoder layers at the start that lose nothing; 0 here and below leaves all layers
            alike, and the model a stock class.
        protect_last: the same at the end.
        calibration: the text that criteria look at.
        compensation: how what remains is refitted; null for not at all.
        rounds: without compensation, how often an equal part of the budget goes by scores on what is left.
        layer_by_layer: keep the decoder layers in main memory and bring them to the GPU one at a time, each
            run again in the backward pass; by default where the GPU's free memory is less than twice the
            weights. On a CPU, gradient checkpointing alone.
        plan: replay this plan.json instead; nothing is scored, and its refits are made again where
            calibration.path gives the text that they were made on.
    """

    budget: Budget = field(default_factory=Budget)
    criterion: str = "kronecker"
    reduction: str = "sum"
    granularity: Granularity = "block"
    kinds: tuple[Kind, ...] = ("mlp", "attention")
    protect_first: int = 4
    protect_last: int = 2
    calibration: Calibration = field(default_factory=Calibration)
    compensation: Compensation | None = field(default_factory=Compensation)
    rounds: int = 1
    layer_by_layer: bool | None = None
    plan: str | None = None

    def __post_init__(self) -> None:
        for name, known, what in (
            (self.criterion, CRITERIA, "criterion"),
            (self.reduction, REDUCTIONS, "reduction"),
        ):
            if name not in known:
                raise ValueError(f"no {what} {name!r}; there are {', '.join(known)}")
        if self.protect_first < 0 or self.protect_last < 0:
            raise ValueError(
                f"protect_first and protect_last count layers, got {self.protect_first} "
                f"and {self.protect_last}"
            )
        if self.rounds < 1 or (self.rounds > 1 and self.compensation is not None):
            raise ValueError(
                f"rounds must be at least 1, and 1 with compensation, which refits once, got {self.rounds}; "
                "set compensation to null and a criterion other than kronecker, which scores layer by layer"
            )
        if self.budget.widths is not None and self.granularity == "global":
            raise ValueError(
                "budget.widths says what every layer keeps, and granularity 'global' lets layers differ: "
                "leave one out"
            )
        if self.budget.is_measured and self.granularity == "global":
            raise ValueError(
                "budget.target_macs and target_latency are measured at equal shares of all layers, and "
                "granularity 'global' lets them differ: state a ratio, target_parameters or target_bytes"
            )
        if self.criterion == "kronecker" and self.compensation is None:
            raise ValueError(
                "criterion 'kronecker' chooses by what removal costs after compensation: leave compensation "
                "on, or choose gate_fisher"
            )
        if self.criterion == "kronecker" and self.compensation is not None and not self.compensation.weights:
            raise ValueError(
                "criterion 'kronecker' chooses by what removal costs after a refit of the weights: leave "
                "compensation.weights on, or choose flap"
            )

    @property
    def reads_text(self) -> bool:
        """Whether a calibration text is looked at."""
        chosen_by_text = self.criterion not in NEED_NO_TEXT or self.compensation is not None
        return chosen_by_text or self.budget.layers > 0

    def unprotected(self, num_layers: int) -> range:
        """The decoder layers that may lose something."""
        return range(self.protect_first, num_layers - self.protect_last)


def searched(*, layers: bool) -> tuple[Kind, ...]:
    """The kinds of groups that discovery is to look for; whole layers only where some are to go."""
    return (*WITHIN_LAYERS, "layer") if layers else WITHIN_LAYERS
