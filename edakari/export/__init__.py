"""Export of a network to ONNX and to `torch.export`, outputs compared before and after."""

from edakari.export.check import ExportCheck
from edakari.export.onnx import to_onnx
from edakari.export.program import to_program

__all__ = ["ExportCheck", "to_onnx", "to_program"]
