"""ONNX Runtime on the CPU: exported once, optimised by its own graph passes.

Layers are timed by the session's profile, which holds the time of every kernel. Timed from outside, one call costs
several times a small layer's kernel, mostly for layout conversions at the model's edges.
"""

from __future__ import annotations

import collections
import dataclasses as dc
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.optional import require_packages
from edakari.cost.example import mapped
from edakari.errors import MeasurementError
from edakari.export.onnx_model import feeds, open_onnx, write_onnx
from edakari.latency.layers import Layer
from edakari.latency.onnx_layers import OnnxLayer, onnx_layer, timed_part
from edakari.latency.timing import Clock, RunSettings

__all__ = ["OnnxRuntime"]

PACKAGES = ("onnxruntime", "onnx", "onnxscript")


@dc.dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime's CPU provider with all graph optimisations."""

    name: str = "onnxruntime"
    kernels_only: bool = True

    def versions(self) -> Mapping[str, str]:
        """See `Runtime.versions`."""
        require_packages("onnx", "the runtime onnxruntime", *PACKAGES)
        return {name: importlib.metadata.version(name) for name in ("onnxruntime", "onnx")}

    def check(self, settings: RunSettings) -> None:
        """See `Runtime.check`."""
        require_packages("onnx", "the runtime onnxruntime", *PACKAGES)
        _require_plain(settings)

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        """Return a callable that runs the network once; see `Runtime.prepare`."""
        _require_plain(settings)
        with tempfile.TemporaryDirectory() as folder:
            given = mapped(example, torch.Tensor.cpu)
            session = open_onnx(write_onnx(copied(model).cpu(), given, Path(folder) / "model.onnx"), settings.threads)
        feed = feeds(session, given)

        def call() -> None:
            session.run(None, feed)

        return call

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> Clock:
        """Return a clock for one layer; see `LayerRuntime.clock`."""
        _require_plain(settings)
        built = onnx_layer(layer, widths)
        if not built.model:
            return _NoTime()
        return _CallClock(built, settings.threads) if layer.kind == "chain" else _KernelClock(built, settings.threads)


def _require_plain(settings: RunSettings) -> None:
    found = (settings.precision, settings.memory_format, settings.device)
    if found != ("fp32", "contiguous", "cpu"):
        raise MeasurementError(
            f"onnxruntime runs networks here in fp32 on the CPU, in a memory format of its own choice, but was asked "
            f"for precision {found[0]!r}, memory format {found[1]!r}, device {found[2]!r}; leave these as they are, or "
            "choose another runtime"
        )


class _NoTime:
    """A layer that the runtime removes from the network."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self) -> None:
        self.calls += 1

    def times(self) -> list[float]:
        return [0.0] * self.calls


class _CallClock:
    """Times whole calls."""

    def __init__(self, built: OnnxLayer, threads: int) -> None:
        self.session: Any = open_onnx(built.model, threads)
        self.feeds = built.feeds
        self.elapsed: list[float] = []

    def run(self) -> None:
        start = time.perf_counter_ns()
        self.session.run(None, self.feeds)
        self.elapsed.append((time.perf_counter_ns() - start) / 1e6)

    def times(self) -> list[float]:
        return self.elapsed


class _KernelClock:
    """Times the layer's kernels by the session's profile."""

    def __init__(self, built: OnnxLayer, threads: int) -> None:
        self.folder = tempfile.TemporaryDirectory()  # one folder each, since profiles are named by the second
        self.session: Any = open_onnx(built.model, threads, profile=Path(self.folder.name) / "profile")
        self.feeds = built.feeds

    def run(self) -> None:
        self.session.run(None, self.feeds)

    def times(self) -> list[float]:
        with self.folder:
            events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        runs: dict[int, list[tuple[str, str, float]]] = collections.defaultdict(list)
        ends = [event["ts"] + event["dur"] for event in events if event["name"] == "model_run"]
        for event in sorted(events, key=lambda event: int(event["ts"])):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                run = sum(end <= event["ts"] for end in ends)
                runs[run].append((event["name"], event["args"]["op_name"], event["dur"] / 1e3))
        return [timed_part(runs[run]) for run in range(len(ends))]
