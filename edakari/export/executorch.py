"""Export to ExecuTorch for its XNNPACK backend, with a check in its runtime where that is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.file_errors import require_writable
from edakari.core.files import replacing
from edakari.core.networks import unwrapped
from edakari.cost.example import arguments, named_tensors
from edakari.export.check import ExportCheck, Exporter, compare, module_outputs
from edakari.export.refused import converting
from edakari.export.serving import served

__all__ = ["EXPORTER", "to_executorch"]


def to_executorch(model: nn.Module, example: Any, path: str | Path, *, tolerance: float = 1e-4) -> ExportCheck:
    """Export a network to ExecuTorch (.pte); operators that XNNPACK lacks run in the portable kernels.

    Args:
        model: the network; it does not change. See `to_onnx`.
        example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors.
        path: path of the file to write.
        tolerance: largest allowed difference, as a fraction of the largest output.

    Raises:
        ExportError: the network cannot be exported, or its outputs differ; nothing is written.
        RunFolderError: the file cannot be written.
    """
    model = served(unwrapped(model, "to_executorch(model, example, path)"))
    require("to_executorch(model, example, path)", path=(path, (str, Path)))
    EXPORTER.require()
    require_writable(path)
    with converting(model, example, "ExecuTorch"):
        exir: Any = importlib.import_module("executorch.exir")
        xnnpack: Any = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
        program = torch.export.export(model, *arguments(example))
        lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
        content = bytes(lowered.to_executorch().buffer)
        found = _outputs(content, example)
    absolute, relative = None, None
    if found is not None:
        absolute, relative = compare(module_outputs(model, example), found, "the ExecuTorch program", tolerance)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return ExportCheck(Path(path), "executorch", absolute, relative, len(content))


def _outputs(content: bytes, example: Any) -> list[torch.Tensor] | None:
    """What the runtime gives; None where the installed package has none for this system."""
    try:
        runtime: Any = importlib.import_module("executorch.runtime")
    except ImportError:
        return None
    method = runtime.Runtime.get().load_program(content).load_method("forward")
    return list(method.execute(list(named_tensors(example).values())))


EXPORTER = Exporter("pte", to_executorch, packages=("executorch",), install="pip install executorch")
"""Export of a network to an ExecuTorch program."""
