"""Export to LiteRT, formerly TensorFlow Lite, with a check in its interpreter."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.file_errors import require_writable
from edakari.core.files import replacing
from edakari.core.networks import unwrapped
from edakari.cost.example import TakesTensors, named_tensors
from edakari.export.check import ExportCheck, Exporter, compare, module_outputs
from edakari.export.refused import converting
from edakari.export.serving import served

__all__ = ["EXPORTER", "to_litert"]


def to_litert(model: nn.Module, example: Any, path: str | Path, *, tolerance: float = 1e-4) -> ExportCheck:
    """Export a network to LiteRT (.tflite), whose inputs keep the layout of PyTorch: [batch, channels, height, width].

    Args:
        model: the network; it does not change. See `to_onnx`.
        example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors.
        path: path of the file to write.
        tolerance: largest allowed difference, as a fraction of the largest output.

    Raises:
        ExportError: the network cannot be exported, or its outputs differ; nothing is written.
        RunFolderError: the file cannot be written.
    """
    model = served(unwrapped(model, "to_litert(model, example, path)"))
    require("to_litert(model, example, path)", path=(path, (str, Path)))
    EXPORTER.require()
    require_writable(path)
    tensors = tuple(named_tensors(example).values())
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.tflite"
        with converting(model, example, "LiteRT"):
            converter: Any = importlib.import_module("litert_torch")
            plain = model if isinstance(example, torch.Tensor) else TakesTensors(model, example)
            converter.convert(plain.eval(), tensors).export(str(made))
        found = _outputs(made, tensors)
        absolute, relative = compare(module_outputs(model, example), found, "the LiteRT model", tolerance)
        with replacing(path) as temporary:
            temporary.write_bytes(made.read_bytes())
    return ExportCheck(Path(path), "litert", absolute, relative, Path(path).stat().st_size)


def _outputs(made: Path, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    interpreter: Any = importlib.import_module("ai_edge_litert.interpreter")
    runner = interpreter.Interpreter(model_path=str(made)).get_signature_runner()
    given = runner(**{f"args_{index}": tensor.numpy() for index, tensor in enumerate(tensors)})
    return [torch.from_numpy(given[f"output_{index}"]) for index in range(len(given))]


EXPORTER = Exporter("tflite", to_litert, packages=("litert_torch",), install="pip install litert-torch")
"""Export of a network to a LiteRT model."""
