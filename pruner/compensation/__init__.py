"""The update of what remains, layer by layer, on the inputs that the pruned model gives."""

from pruner.compensation.settings import Compensation

__all__ = ["Compensation"]
