"""How much each unit matters: the criteria, streamed over calibration samples."""

from pruner.importance.criteria import REDUCTIONS
from pruner.importance.estimate import CRITERIA, NEED_NO_TEXT, estimate_importance

__all__ = ["CRITERIA", "NEED_NO_TEXT", "REDUCTIONS", "estimate_importance"]
