"""What a model can lose: discovery of prunable groups by index-exact tracing."""

from pruner.discovery.discovering import discover
from pruner.discovery.structure import Refusal, Structure

__all__ = ["Refusal", "Structure", "discover"]
