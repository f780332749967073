"""The stages of pruning in order."""

from pruner.pipeline.prune import prune
from pruner.pipeline.settings import PruningSettings

__all__ = ["PruningSettings", "prune"]
