"""Export of a network to ONNX, `torch.export`, OpenVINO, ExecuTorch, Core ML and LiteRT; outputs are compared."""

from edakari.core.registry import Registry
from edakari.export.about import About
from edakari.export.check import ExportCheck, Exporter
from edakari.export.onnx import to_onnx
from edakari.export.program import to_program
from edakari.export.quantizing import Int8Check, to_int8
from edakari.export.serving import served

__all__ = [
    "EXPORTERS",
    "About",
    "ExportCheck",
    "Exporter",
    "Int8Check",
    "served",
    "to_int8",
    "to_onnx",
    "to_program",
]

EXPORTERS: Registry[Exporter] = Registry(
    "export format",
    "edakari.exporters",
    {
        "onnx": "edakari.export.onnx:EXPORTER",
        "program": "edakari.export.program:EXPORTER",
        "openvino": "edakari.export.openvino:EXPORTER",
        "executorch": "edakari.export.executorch:EXPORTER",
        "coreml": "edakari.export.coreml:EXPORTER",
        "litert": "edakari.export.litert:EXPORTER",
    },
)
"""Exporters by the name that a recipe gives their format."""
