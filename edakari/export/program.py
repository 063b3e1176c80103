"""Export by `torch.export`, with a check in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.file_errors import require_writable
from edakari.core.files import replacing
from edakari.core.modes import eval_mode
from edakari.core.networks import unwrapped
from edakari.cost.example import arguments
from edakari.errors import ExportError
from edakari.export.check import ExportCheck, Exporter, compare, module_outputs, output_tensors
from edakari.export.serving import served

__all__ = ["EXPORTER", "to_program"]


def to_program(model: nn.Module, example: Any, path: str | Path, *, tolerance: float = 1e-5) -> ExportCheck:
    """Export a network to a `torch.export` program (.pt2), and check that it gives the module's outputs.

    The program is compared before it is written. The file is not read back, because reading a .pt2 file requires trust.

    Args:
        model: the network; it does not change. Detectors are exported without their post-processing: see
            `edakari.export.served`.
        example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors.
        path: path of the file to write.
        tolerance: largest allowed difference, as a fraction of the largest output.

    Raises:
        ExportError: the network cannot be exported, or its outputs differ; nothing is written.
        RunFolderError: the file cannot be written.
    """
    model = served(unwrapped(model, "to_program(model, example, path)"))
    require("to_program(model, example, path)", path=(path, (str, Path)))
    require_writable(path)
    try:
        with eval_mode(model), torch.no_grad():
            args, kwargs = arguments(example)
            program = torch.export.export(model, args, kwargs)
            found = program.module()(*args, **kwargs)
    except Exception as error:
        cause = str(error).strip().splitlines() or ["no message"]
        raise ExportError(
            f"{type(model).__name__} cannot be exported by torch.export: {type(error).__name__}: {cause[0]}"
        ) from error
    tensors = list(output_tensors(found))
    absolute, relative = compare(module_outputs(model, example), tensors, "the exported program", tolerance)
    with replacing(Path(path)) as temporary:
        # torch.export.save requires its own suffix.
        named = temporary.with_suffix(".pt2")
        try:
            torch.export.save(program, named)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
        size = temporary.stat().st_size
    return ExportCheck(Path(path), "program", absolute, relative, size)


EXPORTER = Exporter("pt2", to_program)
