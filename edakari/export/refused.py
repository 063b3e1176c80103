"""Errors of converters, and the modules whose operators they refuse."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.file_errors import disk_full
from edakari.core.modes import eval_mode
from edakari.cost.example import arguments
from edakari.errors import EdakariError, ExportError

__all__ = ["converting", "listed", "refused_in"]

OPERATOR = re.compile(r"(?:\b[a-z][a-z_0-9]*(?:\.|::)|\b(?:node|op|operator|operation) ['\"]?)([a-z_][a-z_0-9]*)")
"""An operator as messages of converters name it: op='aten.linalg_qr', aten::linalg_qr, "unsupported node linalg_qr"."""
FEW = 3
"""Modules that a message lists; the others are counted."""


@contextlib.contextmanager
def converting(model: nn.Module, example: Any, to: str, advice: str = "") -> Iterator[None]:
    """Context in which a network is converted: in evaluation mode, without gradients, and without the converter's log.

    Args:
        model: network that is converted; its modes are restored.
        example: its input.
        to: name of the format.
        advice: what to do if the module that the converter refuses is not to be found.

    Raises:
        ExportError: the converter raises an error; names the modules whose operator it refuses.
    """
    try:
        # with gradients a converter can pick another attention kernel in its second pass, whose strides do not fit
        with eval_mode(model), _quiet(), torch.no_grad():
            yield
    except EdakariError:
        raise
    except Exception as error:
        if disk_full(error):
            raise
        cause = _root(error)
        said = next(iter(str(cause).strip().splitlines()), "no message")
        where = refused_in(model, example, str(cause))
        raise ExportError(
            f"{type(model).__name__} cannot be exported to {to}: {type(cause).__name__}: {said}. "
            + (f"It is in {where}; replace it there" if where else advice or "Replace what it names")
        ) from error


def refused_in(model: nn.Module, example: Any, message: str) -> str:
    """Name the modules that use an operator which a converter's message names; nothing if that is not to be found.

    Args:
        model: the network; it does not change.
        example: its input.
        message: the converter's message.
    """
    # a converter may name what an operator was decomposed to: prims.bessel_j0 for aten.special_bessel_j0
    named = tuple(f"{before}{name}" for name in OPERATOR.findall(message) for before in (".", "_"))
    if not named:
        return ""
    args, kwargs = arguments(example)
    try:
        with eval_mode(model), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, args, kwargs)
            found = list(_modules(program, named)) or list(_modules(program.run_decompositions(), named))
    except Exception:  # the first error matters, not that another tool cannot read the network either
        return ""
    return listed(found, type(model).__name__)


def listed(paths: Sequence[str], kind: str) -> str:
    """Return the first of these module paths as text, and the number of the others; "" is the network itself.

    Args:
        paths: module paths; one may be there several times.
        kind: class of the network.
    """
    single = list(dict.fromkeys(path or f"the forward of {kind} itself" for path in paths))
    return ", ".join(single[:FEW]) + (f" and {len(single) - FEW} more modules" if len(single) > FEW else "")


def _modules(program: Any, named: tuple[str, ...]) -> Iterator[str]:
    """The innermost module of each operator whose name ends with one of these."""
    for node in program.graph.nodes:
        target = str(node.target).removeprefix("torch.ops.")
        if node.op == "call_function" and ".".join(target.split(".")[:2]).endswith(named):
            stack = list(node.meta.get("nn_module_stack", {}).values())
            yield stack[-1][0] if stack else ""


def _root(error: BaseException) -> BaseException:
    """Find the root cause of an error; a converter's own message names only the pass that failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence a converter's log of its passes and its own deprecation warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "coremltools", "executorch")]
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
