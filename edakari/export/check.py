"""Whether an exported network still computes what the module computes."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.modes import eval_mode
from edakari.cost.example import arguments, shapes_text
from edakari.errors import ExportError

__all__ = ["ExportCheck", "Exporter", "compare", "module_outputs", "output_tensors"]


@dc.dataclass(frozen=True, slots=True)
class ExportCheck:
    """How far an exported network's outputs lie from the module's.

    Args:
        path: of the exported file.
        format: "onnx" or "program".
        absolute: largest absolute difference.
        relative: largest absolute difference as a share of the largest output.
        bytes: size of the file.
    """

    path: Path
    format: str
    absolute: float
    relative: float
    bytes: int


@dc.dataclass(frozen=True)
class Exporter:
    """Writes a network in some format.

    Args:
        suffix: of its files, without the dot.
        write: takes the network, an example and the file's path, and compares the outputs.
    """

    suffix: str
    write: Callable[[nn.Module, Any, Path], ExportCheck]

    def __call__(self, model: nn.Module, example: Any, path: Path) -> ExportCheck:
        """Write a network.

        Args:
            model: left as found.
            example: an input, [batch, ...]; or a tuple of positional arguments or a dict of keywords with such tensors.
            path: of the file.

        Raises:
            ExportError: the network cannot be exported, or its outputs differ.
        """
        return self.write(model, example, path)


def compare(
    expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor], what: str, tolerance: float
) -> tuple[float, float]:
    """Worst absolute and worst relative difference between outputs.

    Raises:
        ExportError: they differ by more than the tolerance, in number, or in shape.
    """
    if len(expected) != len(found):
        raise ExportError(f"{what} gives {len(found)} outputs, the module {len(expected)}")
    absolute = relative = 0.0
    for index, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        if ours.shape != theirs.shape:
            raise ExportError(
                f"{what}: output {index} has shape {tuple(theirs.shape)}, the module's {tuple(ours.shape)}"
            )
        ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
        # equal infinities are equal; NaN is equal to nothing
        error = torch.where(ours == theirs, 0.0, (ours - theirs).abs())
        worst = float(error.max()) if ours.numel() else 0.0
        if not math.isfinite(worst):
            raise ExportError(
                f"{what}: output {index} has values that are not finite (NaN or infinite) where the module's are other "
                "ones, or the module's own are NaN; nothing can be compared. Export a network whose outputs are finite."
            )
        scale = float(ours.abs().nan_to_num(posinf=0.0).max()) if ours.numel() else 0.0
        absolute, relative = max(absolute, worst), max(relative, worst / max(scale, 1e-12))
    if not relative <= tolerance:
        raise ExportError(
            f"{what} is not the same network: outputs differ by {absolute:.3g}, {relative:.3g} of the largest output, "
            f"where {tolerance:g} is allowed. Export in float32, or allow more with `tolerance`."
        )
    return absolute, relative


def module_outputs(model: nn.Module, example: Any) -> list[torch.Tensor]:
    """The module's output tensors in evaluation mode, in order; modes are left as found.

    Raises:
        ExportError: the forward pass fails.
    """
    try:
        with eval_mode(model), torch.no_grad():
            args, kwargs = arguments(example)
            return list(output_tensors(model(*args, **kwargs)))
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} does not run on an input of shape {shapes_text(example)}: {error}"
        ) from error


def output_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in what a network returns, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from output_tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from output_tensors(part)
