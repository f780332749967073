"""Model folders in other formats, each loaded back and compared before anyone relies on it."""

from pruner.export.exporting import FORMATS, export_model

__all__ = ["FORMATS", "export_model"]
