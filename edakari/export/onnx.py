"""Export to ONNX, with a check in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.file_errors import require_writable
from edakari.core.files import replacing
from edakari.core.networks import unwrapped
from edakari.cost.example import mapped
from edakari.errors import ExportError
from edakari.export.about import PLAIN, About
from edakari.export.check import ExportCheck, Exporter, compare, module_outputs
from edakari.export.onnx_model import feeds, open_onnx, write_onnx
from edakari.export.serving import served

__all__ = ["EXPORTER", "to_onnx", "tried_batches"]


def to_onnx(
    model: nn.Module,
    example: Any,
    path: str | Path,
    *,
    dynamic_batch: bool = False,
    tolerance: float = 1e-4,
    about: About = PLAIN,
) -> ExportCheck:
    """Export a network to one ONNX file, and check that ONNX Runtime gives the module's outputs.

    Args:
        model: the network; it does not change. Detectors are exported without their post-processing: see
            `edakari.export.served`.
        example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors. In
            the file, several inputs are named `input_0`, `input_1`, …, or after the keywords.
        path: path of the file to write.
        dynamic_batch: whether the batch size is variable; then a batch of 3 is compared, too.
        tolerance: largest allowed difference, as a fraction of the largest output.
        about: names of the input and the output, and metadata.

    Raises:
        ExportError: the network cannot be exported, or its outputs differ; nothing is written.
        RunFolderError: the file cannot be written.
    """
    model = served(unwrapped(model, "to_onnx(model, example, path)"))
    require("to_onnx(model, example, path)", path=(path, (str, Path)))
    require_writable(path)
    with replacing(path) as temporary:
        write_onnx(model, example, temporary, dynamic_batch=dynamic_batch, about=about)
        batches = tried_batches(example, dynamic_batch)
        worst = [_difference(model, about.named(batch), batch, temporary, tolerance) for batch in batches]
        size = temporary.stat().st_size
    return ExportCheck(Path(path), "onnx", max(pair[0] for pair in worst), max(pair[1] for pair in worst), size)


def tried_batches(example: Any, dynamic_batch: bool) -> list[Any]:
    """Return the batches for which outputs are compared: the example, and three of it if the size is variable."""
    thrice = mapped(example, lambda x: torch.cat([x] * 3)[:3] if x.dim() else x)
    return [example, thrice] if dynamic_batch else [example]


def _difference(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], example: Any, path: Path, tolerance: float
) -> tuple[float, float]:
    try:
        session = open_onnx(path)
        found = session.run(None, feeds(session, mapped(dict(tensors), torch.Tensor.cpu)))
    except Exception as error:
        raise ExportError(f"ONNX Runtime does not run the exported network: {type(error).__name__}: {error}") from error
    outputs = [torch.from_numpy(value) for value in found]
    return compare(module_outputs(model, example), outputs, "the ONNX model", tolerance)


EXPORTER = Exporter(
    "onnx",
    to_onnx,
    options=("about", "dynamic_batch"),
    packages=("onnx", "onnxscript", "onnxruntime"),
    install='pip install "edakari[onnx]"',
)
