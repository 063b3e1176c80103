"""OpenVINO on the CPU, an optional extra; networks are passed to it as ONNX."""

from __future__ import annotations

import dataclasses as dc
import importlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.far_side.loops import CallClock
from edakari.core.far_side.sessions import timed_part
from edakari.core.optional import needs, require_packages
from edakari.cost.example import mapped, named_tensors
from edakari.errors import MeasurementError
from edakari.export.onnx_model import write_onnx
from edakari.latency.layers import Layer
from edakari.latency.onnx_layers import OnnxLayer, onnx_layer
from edakari.latency.timing import Clock, RunSettings

__all__ = ["OpenVino"]

PACKAGES = ("openvino", "onnx", "onnxscript")

PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


@dc.dataclass(frozen=True)
class OpenVino:
    """OpenVINO's CPU plugin, configured for the latency of one call."""

    name: str = "openvino"
    kernels_only: bool = True

    def versions(self) -> Mapping[str, str]:
        """See `Runtime.versions`."""
        require_packages("openvino", "the runtime openvino", *PACKAGES)
        return {name: importlib.metadata.version(name) for name in ("openvino", "onnx")}

    def check(self, settings: RunSettings) -> None:
        """See `Runtime.check`."""
        require_packages("openvino", "the runtime openvino", *PACKAGES)
        _require_plain(settings)

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        """Return a callable that runs the network once; see `Runtime.prepare`."""
        with tempfile.TemporaryDirectory() as folder:
            given = mapped(example, torch.Tensor.cpu)
            path = write_onnx(copied(model).cpu(), given, Path(folder) / "model.onnx")
            request = _request(path.read_bytes(), settings)
        inputs = [tensor.numpy() for tensor in named_tensors(given).values()]

        def call() -> None:
            request.infer(inputs)

        return call

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """Return a clock for one layer, from the plugin's profile; see `LayerRuntime.clock`."""
        built = onnx_layer(layer, widths)
        if not built.model:
            return CallClock(lambda: None)
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
        "INFERENCE_PRECISION_HINT": PRECISIONS[settings.precision],
        "PERF_COUNT": profile,
    }
    if settings.threads:
        options["INFERENCE_NUM_THREADS"] = settings.threads
    core = runtime.Core()
    return core.compile_model(core.read_model(model, b""), "CPU", options).create_infer_request()
