"""A runtime whose times are a known formula, so that tests know the true values; nothing is really timed."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import extent
from edakari.core.space import Sizes
from edakari.graph import fixed_graph
from edakari.latency import Layer, layers_of
from edakari.latency.table import Point
from edakari.latency.timing import RunSettings

__all__ = ["FormulaRuntime"]

CALL, OPERATOR = 0.3, 0.002
"""Time of a call, and of each operator outside the layers, in ms."""
PRODUCT = 2e-7
"""Time of one multiply-accumulate, in ms."""


@dc.dataclass
class FormulaRuntime:
    """Widths padded to multiples of 8; input widths of convolutions that 4 does not divide take half as long again.

    Args:
        noise: typical fraction by which a call takes longer.
        outliers: fraction of the calls that take two to five times as long.
        version: version of the runtime.
        factor: factor of the layers' times in a complete network compared with layers alone.
        constant: additional time of a complete network, in ms.
        now_ns: time of its clock, which whole networks put forward and `perf_counter_ns` tells.
        opened: every point for which a clock was made, in order.
    """

    noise: float = 0.0
    outliers: float = 0.0
    version: str = "1.0"
    factor: float = 1.0
    constant: float = 0.0
    now_ns: int = 0
    opened: list[Point] = dc.field(default_factory=list)
    rng: np.random.Generator = dc.field(default_factory=lambda: np.random.default_rng(0))
    name: str = "formula"
    kernels_only: bool = True

    def versions(self) -> Mapping[str, str]:
        """See `edakari.latency.timing.Runtime`."""
        return {"formula": self.version}

    def check(self, settings: RunSettings) -> None:
        """Every setting will do."""

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        """A callable that puts the clock forward by the network's `latency`."""
        time = self.latency(fixed_graph(model, example), {})

        def call() -> None:
            self.now_ns += round(self.noisy(time, 1)[0] * 1e6)

        return call

    def perf_counter_ns(self) -> int:
        """The runtime's clock; a test puts the runtime in the place of `edakari.latency.timing.time`."""
        return self.now_ns

    def clock(self, layer: Layer, widths: tuple[int, ...], settings: RunSettings) -> _Clock:
        """See `edakari.latency.timing.LayerRuntime`."""
        self.opened.append((layer, widths))
        return _Clock(self, self.time(layer, widths))

    def time(self, layer: Layer, widths: tuple[int, ...]) -> float:
        """Return the time of a layer without noise, in ms."""
        if layer.kind == "chain":
            return CALL + OPERATOR * widths[0]
        if layer.kind not in ("convolution", "linear", "grouped_convolution"):
            return 1e-6 * math.prod(widths)
        padded = math.prod(-(-width // 8) * 8 for width in widths)
        settings = dict(layer.settings)
        space, kernel = settings.get("space", settings.get("rows", (1,))), settings.get("kernel", (1,))
        work = padded * math.prod((*space, *kernel))
        awkward = 1.5 if layer.kind == "convolution" and widths[0] > 4 and widths[0] % 4 else 1.0
        return float(0.005 + awkward * PRODUCT * work)

    def latency(self, graph: Graph, sizes: Sizes) -> float:
        """Return the time of a complete network without noise, in ms."""
        uses = layers_of(graph)
        times = (self.time(use.layer, tuple(int(extent(width, sizes)) for width in use.widths)) for use in uses)
        return self.constant + self.factor * (CALL + OPERATOR * len(uses) + sum(times))

    def noisy(self, time: float, calls: int) -> list[float]:
        """Return noisy times of calls that would take `time` each, in ms."""
        noise = 1.0 + np.abs(self.rng.normal(0.0, self.noise, calls))
        late = np.where(self.rng.random(calls) < self.outliers, self.rng.uniform(2.0, 5.0, calls), 1.0)
        return list((time * noise * late).tolist())


@dc.dataclass
class _Clock:
    runtime: FormulaRuntime
    time: float
    calls: int = 0

    def run(self) -> None:
        self.calls += 1

    def times(self) -> list[float]:
        return self.runtime.noisy(self.time, self.calls)
