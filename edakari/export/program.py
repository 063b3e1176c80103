"""Export by `torch.export`, checked in memory."""

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

__all__ = ["EXPORTER", "to_program"]


def to_program(model: nn.Module, example: Any, path: str | Path, *, tolerance: float = 1e-5) -> ExportCheck:
    """Write a network as a `torch.export` program (.pt2) whose outputs are the module's.

    The program is compared before it is written; reading the file back is left to who trusts it.

    Args:
        model: left as found.
        example: an input, [batch, ...]; or a tuple of positional arguments or a dict of keywords with such tensors.
        path: of the file.
        tolerance: largest difference allowed, as a share of the largest output.

    Raises:
        ExportError: the network cannot be exported, or its outputs differ; nothing is written.
        RunFolderError: the file cannot be written.
    """
    model = unwrapped(model, "to_program(model, example, path)")
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
        # torch.export.save insists on its own suffix.
        named = temporary.with_suffix(".pt2")
        try:
            torch.export.save(program, named)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
        size = temporary.stat().st_size
    return ExportCheck(Path(path), "program", absolute, relative, size)


EXPORTER = Exporter("pt2", to_program)
