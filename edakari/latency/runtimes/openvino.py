"""OpenVINO on the CPU, an optional extra; networks are passed to it as ONNX.

In int8, NNCF quantises whole networks. Single layers are quantised by ONNX Runtime's quantiser, which is faster by far;
the kernels are the same.
"""

from __future__ import annotations

import dataclasses as dc
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from edakari.core.far_side.loops import CallClock
from edakari.core.far_side.sessions import timed_part
from edakari.core.optional import needs, require_packages
from edakari.errors import MeasurementError
from edakari.export.int8 import Feeds, Quantizer, quantized_for_timing
from edakari.export.nncf_quantizer import EXTRA, quantized_by_nncf
from edakari.export.nncf_quantizer import PACKAGES as INT8_PACKAGES
from edakari.export.onnx_model import arrays
from edakari.export.sized_onnx import NetworkFiles
from edakari.latency.layers import Layer
from edakari.latency.onnx_layers import OnnxLayer, onnx_layer
from edakari.latency.timing import Clock, RunSettings

__all__ = ["OpenVino"]

PACKAGES = ("openvino", "onnx", "onnxscript")

PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Names of precisions in OpenVINO. In int8, the file says what is quantised, and the rest is fp32."""


@dc.dataclass(frozen=True)
class OpenVino:
    """OpenVINO's CPU plugin, configured for the latency of one call."""

    name: str = "openvino"
    kernels_only: bool = True
    precisions: tuple[str, ...] = (*PRECISIONS, "int8")
    files: NetworkFiles = dc.field(default_factory=NetworkFiles, compare=False, repr=False)

    def versions(self) -> Mapping[str, str]:
        """See `Runtime.versions`."""
        require_packages("openvino", "the runtime openvino", *PACKAGES)
        return {name: importlib.metadata.version(name) for name in ("openvino", "onnx")}

    @property
    def quantizer(self) -> Quantizer:
        """See `FileRuntime.quantizer`."""
        return quantized_by_nncf

    def check(self, settings: RunSettings) -> None:
        """See `Runtime.check`."""
        require_packages("openvino", "the runtime openvino", *PACKAGES)
        if settings.precision == "int8":
            require_packages(EXTRA, "int8 in the runtime openvino", *INT8_PACKAGES)
        _require_plain(settings)

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        """Return a callable that runs the network once; see `Runtime.prepare`."""
        content, feeds = self.files.content(model, example), arrays(example)
        if settings.precision == "int8":
            content = quantized_by_nncf(content, [_made_up(feeds)], settings.exclude)
        return self.opened(content, feeds, settings)

    def opened(self, content: bytes, feeds: Feeds, settings: RunSettings) -> Callable[[], None]:
        """Return a callable that runs an ONNX file once; see `FileRuntime.opened`."""
        request, inputs = _request(content, settings), list(feeds.values())

        def call() -> None:
            request.infer(inputs)

        return call

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """Return a clock for one layer, from the plugin's profile; see `LayerRuntime.clock`."""
        built = onnx_layer(layer, widths)
        if not built.model:
            return CallClock(lambda: None)
        if settings.precision == "int8" and layer.kind != "chain":
            built = dc.replace(built, model=quantized_for_timing(built.model, layer=True))
        if layer.kind == "chain":
            request = _request(built.model, settings)
            return CallClock(lambda: request.infer(built.feeds))
        return _KernelClock(built, settings)


class _KernelClock:
    """Times the layer's kernels by the plugin's profile."""

    def __init__(self, built: OnnxLayer, settings: RunSettings) -> None:
        self.request = _request(built.model, settings, profile=True)
        self.feeds = built.feeds
        self.elapsed: list[float] = []

    def run(self) -> None:
        self.request.infer(self.feeds)
        nodes = [
            # the plugin's name for a layout conversion
            (info.node_name, "Reorder" if info.node_type == "Reorder" else info.node_type, time)
            for info in self.request.get_profiling_info()
            if (time := info.real_time.total_seconds() * 1e3) > 0
        ]
        self.elapsed.append(timed_part(nodes))

    def times(self) -> list[float]:
        return self.elapsed


def _made_up(feeds: Feeds) -> Feeds:
    """Inputs of the same shapes with values of all signs, since those of an example are often all 0."""
    rng = np.random.default_rng(0)
    floats = {name: value for name, value in feeds.items() if value.dtype.kind == "f"}
    return {**feeds, **{name: rng.standard_normal(value.shape).astype(value.dtype) for name, value in floats.items()}}


def _openvino() -> Any:
    with needs("openvino", "the runtime openvino"):
        return importlib.import_module("openvino")


def _require_plain(settings: RunSettings) -> None:
    if (settings.memory_format, settings.device) != ("contiguous", "cpu"):
        raise MeasurementError(
            f"openvino runs networks here on the CPU, in a memory format of its own choice, but was asked for memory "
            f"format {settings.memory_format!r} and device {settings.device!r}; leave these as they are"
        )


def _request(model: bytes, settings: RunSettings, profile: bool = False) -> Any:
    _require_plain(settings)
    runtime = _openvino()
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": PRECISIONS.get(settings.precision, "f32"),
        "PERF_COUNT": profile,
    }
    if settings.threads:
        options["INFERENCE_NUM_THREADS"] = settings.threads
    core = runtime.Core()
    return core.compile_model(core.read_model(model, b""), "CPU", options).create_infer_request()
