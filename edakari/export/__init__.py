"""Export of a network to ONNX and to `torch.export`, with a comparison of outputs."""

from edakari.core.registry import Registry
from edakari.export.about import About
from edakari.export.check import ExportCheck, Exporter
from edakari.export.onnx import to_onnx
from edakari.export.program import to_program
from edakari.export.serving import served

__all__ = ["EXPORTERS", "About", "ExportCheck", "Exporter", "served", "to_onnx", "to_program"]

EXPORTERS: Registry[Exporter] = Registry(
    "export format",
    "edakari.exporters",
    {"onnx": "edakari.export.onnx:EXPORTER", "program": "edakari.export.program:EXPORTER"},
)
"""Exporters by the name that a recipe gives their format."""
