"""ONNX Runtime on the CPU: exported once, optimised by its own graph passes.

Layers are timed by the session's profile, which holds the time of every kernel. Timed from outside, one call costs
several times a small layer's kernel, mostly for layout conversions at the model's edges.
"""

from __future__ import annotations

import dataclasses as dc
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edakari.core.far_side.loops import CallClock
from edakari.core.far_side.sessions import KernelClock
from edakari.core.optional import require_packages
from edakari.errors import MeasurementError
from edakari.export.int8 import Feeds, Quantizer, quantized, quantized_for_timing
from edakari.export.onnx_model import arrays, open_onnx
from edakari.export.sized_onnx import NetworkFiles
from edakari.latency.layers import Layer
from edakari.latency.onnx_layers import onnx_layer
from edakari.latency.timing import Clock, RunSettings

__all__ = ["OnnxRuntime"]

PACKAGES = ("onnxruntime", "onnx", "onnxscript")


@dc.dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime's CPU provider with all graph optimisations.

    In int8, a network is quantised with made-up ranges before it is timed: its operators are those of a network with
    calibrated ranges, and take the same time.
    """

    name: str = "onnxruntime"
    kernels_only: bool = True
    precisions: tuple[str, ...] = ("fp32", "int8")
    files: NetworkFiles = dc.field(default_factory=NetworkFiles, compare=False, repr=False)

    def versions(self) -> Mapping[str, str]:
        """See `Runtime.versions`."""
        require_packages("onnx", "the runtime onnxruntime", *PACKAGES)
        return {name: importlib.metadata.version(name) for name in ("onnxruntime", "onnx")}

    @property
    def quantizer(self) -> Quantizer:
        """See `FileRuntime.quantizer`."""
        return quantized

    def check(self, settings: RunSettings) -> None:
        """See `Runtime.check`."""
        require_packages("onnx", "the runtime onnxruntime", *PACKAGES)
        _require_plain(settings)

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        """Return a callable that runs the network once; see `Runtime.prepare`."""
        _require_plain(settings)
        content = self.files.content(model, example)
        if settings.precision == "int8":
            content = quantized_for_timing(content, settings.exclude)
        return self.opened(content, arrays(example), settings)

    def opened(self, content: bytes, feeds: Feeds, settings: RunSettings) -> Callable[[], None]:
        """Return a callable that runs an ONNX file once; see `FileRuntime.opened`."""
        session = open_onnx(content, settings.threads)
        taken = {each.name: feeds[each.name] for each in session.get_inputs()}

        def call() -> None:
            session.run(None, taken)

        return call

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """Return a clock for one layer; see `LayerRuntime.clock`."""
        _require_plain(settings)
        built = onnx_layer(layer, widths)
        if not built.model:
            return _NoTime()
        if layer.kind == "chain":
            session = open_onnx(built.model, settings.threads)
            return CallClock(lambda: session.run(None, built.feeds))
        content = quantized_for_timing(built.model, layer=True) if settings.precision == "int8" else built.model
        return KernelClock(lambda profile: open_onnx(content, settings.threads, Path(profile)), built.feeds)


def _require_plain(settings: RunSettings) -> None:
    found = (settings.precision, settings.memory_format, settings.device)
    if found[0] not in ("fp32", "int8") or found[1:] != ("contiguous", "cpu"):
        raise MeasurementError(
            "onnxruntime runs networks here in fp32 or int8 on the CPU, in a memory format of its own choice, but was "
            f"asked for precision {found[0]!r}, memory format {found[1]!r}, device {found[2]!r}; leave these as they "
            "are, or choose another runtime"
        )


class _NoTime:
    """A layer that the runtime removes from the network."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self) -> None:
        self.calls += 1

    def times(self) -> list[float]:
        return [0.0] * self.calls
