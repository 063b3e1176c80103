"""The modules whose operators a converter refuses."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from edakari.core.modes import eval_mode
from edakari.cost.example import arguments

__all__ = ["refused_in"]

OPERATOR = re.compile(r"(?:op='|torch\.ops\.|\b)(aten|prims|torchvision|edakari|[a-z_]+)(?:\.|::)([a-z_0-9]+)")
"""An operator as messages of converters name it: op='aten.linalg_qr', torch.ops.aten.linalg_qr, aten::linalg_qr."""
FEW = 3
"""Modules that a message lists; the others are counted."""


def refused_in(model: nn.Module, example: Any, message: str) -> str:
    """Name the modules that use an operator which a converter's message names; nothing if that is not to be found.

    Args:
        model: the network; it does not change.
        example: its input.
        message: the converter's message.
    """
    # a converter may name what an operator was decomposed to: prims.bessel_j0 for aten.special_bessel_j0
    named = tuple(f"{before}{name}" for _, name in OPERATOR.findall(message) for before in (".", "_"))
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
    paths = list(dict.fromkeys(found))
    listed = ", ".join(path or f"the forward of {type(model).__name__} itself" for path in paths[:FEW])
    return listed + (f" and {len(paths) - FEW} more modules" if len(paths) > FEW else "")


def _modules(program: Any, named: tuple[str, ...]) -> Iterator[str]:
    """The innermost module of each operator whose name ends with one of these."""
    for node in program.graph.nodes:
        target = str(node.target).removeprefix("torch.ops.")
        if node.op == "call_function" and ".".join(target.split(".")[:2]).endswith(named):
            stack = list(node.meta.get("nn_module_stack", {}).values())
            yield stack[-1][0] if stack else ""
