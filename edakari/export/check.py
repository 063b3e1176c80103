"""Comparison of an exported network's outputs with the module's outputs."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.modes import eval_mode
from edakari.core.optional import missing_packages
from edakari.cost.example import arguments, shapes_text
from edakari.errors import ExportError, MissingPackage
from edakari.export.about import About

__all__ = ["ExportCheck", "Exporter", "compare", "module_outputs", "output_tensors"]


@dc.dataclass(frozen=True, slots=True)
class ExportCheck:
    """Differences between the outputs of an exported network and of the module.

    Args:
        path: path of the exported file.
        format: "onnx" or "program".
        absolute: largest absolute difference; None where none was computed: in formats that nothing here runs, and for
            networks in int8.
        relative: largest absolute difference as a fraction of the largest output; None as before.
        bytes: size of the file in bytes, with the files that belong to it.
    """

    path: Path
    format: str
    absolute: float | None
    relative: float | None
    bytes: int


@dc.dataclass(frozen=True)
class Exporter:
    """Writes a network in some format.

    Args:
        suffix: suffix of its files, without the dot.
        write: function that writes a network, given an example and the file's path, and compares the outputs.
        options: keywords that `write` takes besides: "about", "dynamic_batch".
        packages: packages that it imports.
        install: how to install them, such as `pip install "edakari[onnx]"`.
    """

    suffix: str
    write: Callable[..., ExportCheck]
    options: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    install: str = ""

    def __call__(
        self, model: nn.Module, example: Any, path: Path, *, about: About | None = None, dynamic_batch: bool = False
    ) -> ExportCheck:
        """Write a network.

        Args:
            model: left as found.
            example: an input, [batch, ...]; or a tuple of positional arguments or a dict of keywords with such tensors.
            path: of the file.
            about: what the file says about the network, if the format can hold that.
            dynamic_batch: whether the batch size is variable.

        Raises:
            ExportError: the network cannot be exported, its outputs differ, or the format has no variable batch size.
            MissingPackage: a package is not installed.
        """
        self.require()
        if dynamic_batch and "dynamic_batch" not in self.options:
            raise ExportError(f"a variable batch size cannot be exported to .{self.suffix} here; leave it fixed")
        options = {"about": about or About(), "dynamic_batch": dynamic_batch}
        return self.write(model, example, path, **{name: options[name] for name in self.options})

    def require(self) -> None:
        """Raise an error if a package is not installed; imports nothing.

        Raises:
            MissingPackage: says which, and how to install them.
        """
        missing = self.missing()
        if missing:
            raise MissingPackage(f"export to .{self.suffix} needs {missing}", name=self.packages[0])

    def missing(self) -> str:
        """Say which packages are not installed here, and how to install them; nothing if all are."""
        missing = missing_packages(*self.packages)
        return f"{', '.join(missing)}, not installed here: {self.install}" if missing else ""


def compare(
    expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor], what: str, tolerance: float
) -> tuple[float, float]:
    """Compute the largest absolute and the largest relative difference between outputs.

    Raises:
        ExportError: the outputs differ by more than the tolerance, in number or in shape.
    """
    if len(expected) != len(found):
        raise ExportError(f"{what} has {len(found)} outputs, but the module has {len(expected)}")
    absolute = relative = 0.0
    for index, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        if ours.shape != theirs.shape:
            raise ExportError(
                f"{what}: output {index} has shape {tuple(theirs.shape)}, but the module's has {tuple(ours.shape)}"
            )
        ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
        # equal infinities are equal; NaN is equal to nothing
        error = torch.where(ours == theirs, 0.0, (ours - theirs).abs())
        worst = float(error.max()) if ours.numel() else 0.0
        if not math.isfinite(worst):
            raise ExportError(
                f"{what}: output {index} has values that are not finite (NaN or infinite) where the module's differ, "
                "or the module's values are NaN; a comparison is impossible. Export a network with finite outputs."
            )
        scale = float(ours.abs().nan_to_num(posinf=0.0).max()) if ours.numel() else 0.0
        absolute, relative = max(absolute, worst), max(relative, worst / max(scale, 1e-12))
    if not relative <= tolerance:
        raise ExportError(
            f"{what} is not the same network: outputs differ by {absolute:.3g}, {relative:.3g} of the largest output, "
            f"but only {tolerance:g} is allowed. Export in float32, or raise `tolerance`."
        )
    return absolute, relative


def module_outputs(model: nn.Module, example: Any) -> list[torch.Tensor]:
    """Run the module in evaluation mode and return its output tensors in order; modes are restored.

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
    """Yield every tensor in the output of a network, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from output_tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from output_tensors(part)
