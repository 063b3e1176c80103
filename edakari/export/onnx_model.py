"""A network as an ONNX model, by torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.file_errors import disk_full
from edakari.core.files import replacing
from edakari.core.modes import eval_mode
from edakari.core.optional import needs, require_packages
from edakari.cost.example import TakesTensors, named_tensors
from edakari.errors import EdakariError, ExportError

__all__ = ["feeds", "open_onnx", "write_onnx"]


def write_onnx(model: nn.Module, example: Any, path: str | Path, *, dynamic_batch: bool = False) -> Path:
    """Write a network as one ONNX file in evaluation mode; its inputs are called as `named_tensors` calls them.

    Args:
        model: left as found.
        example: an input, [batch, ...]; or a tuple of positional arguments or a dict of keywords with such tensors.
        path: of the file.
        dynamic_batch: whether the batch size stays open; else it is the example's.

    Returns:
        The path.

    Raises:
        ExportError: the network cannot be exported; says what the exporter said.
        MissingPackage: the extra `onnx` is not installed.
    """
    require_packages("onnx", "exporting to ONNX", "onnx", "onnxscript")
    tensors = named_tensors(example)
    batch = {0: torch.export.Dim("batch", min=1)} if dynamic_batch else None
    # A batch of 1 would be taken for a constant, so an open batch size is traced with 2.
    traced = [torch.cat([x, x])[:2] if dynamic_batch and x.shape[:1] == (1,) else x for x in tensors.values()]
    alone = isinstance(example, torch.Tensor)
    shapes = (batch,) if alone else (tuple(batch if x.dim() else None for x in traced),)
    try:
        # with gradients the exporter can pick another attention kernel in its second pass, whose strides do not fit
        with eval_mode(model), _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model if alone else TakesTensors(model, example),
                tuple(traced),
                dynamo=True,
                input_names=list(tensors),
                dynamic_shapes=shapes if batch else None,
                verbose=False,
            )
            if program is None:
                raise ExportError("torch.onnx.export gave nothing back")
            with replacing(path) as temporary:
                program.save(str(temporary), external_data=False)
    except EdakariError:
        raise
    except Exception as error:
        if disk_full(error):
            raise
        cause = _root(error)
        said = str(cause).strip().splitlines() or ["no message"]
        raise ExportError(
            f"{type(model).__name__} cannot be exported to ONNX: {type(cause).__name__}: {said[0]}. "
            "Replace the operator that the exporter names, or export with another batch setting."
        ) from error
    return Path(path)


def feeds(session: Any, example: Any) -> dict[str, Any]:
    """What an ONNX Runtime session takes of an example on the CPU; inputs without an effect are not in the session."""
    tensors = named_tensors(example)
    taken = [given.name for given in session.get_inputs()]
    return {name: tensors[name].detach().numpy() for name in taken}


def open_onnx(model: str | Path | bytes, threads: int = 0, profile: Path | None = None) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        model: path of the ONNX file, or its content.
        threads: CPU threads of one call; 0 leaves ONNX Runtime's own choice.
        profile: start of the path to which the session writes the time of each node; None is no profile.
    """
    with needs("onnx", "running an ONNX model"):
        runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    content = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _root(error: BaseException) -> BaseException:
    """What an error was raised from in the first place; the exporter's own words say only in which pass it stopped."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs each pass and warns of its own deprecations; none of it is the user's business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
