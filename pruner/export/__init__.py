"""Model folders in other formats, each loaded back and compared before anyone relies on it."""

from pruner.export.exporting import FORMATS, beside, check, export_model, write_export
from pruner.export.pushing import push
from pruner.export.verification import has_room, verify_export
from pruner.export.vllm_plugin import ARCHITECTURES

__all__ = [
    "ARCHITECTURES",
    "FORMATS",
    "beside",
    "check",
    "export_model",
    "has_room",
    "push",
    "verify_export",
    "write_export",
]
