"""Where and how whole networks are timed."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.steady import STEADY
from edakari.cost.example import mapped
from edakari.errors import MeasurementError
from edakari.latency.table import Table, key_of, open_table
from edakari.latency.timing import (
    LocalRuntime,
    RemoteRuntime,
    RunSettings,
    Runtime,
    Timing,
    expected_seconds,
    measure,
    other_calls,
    require_steady,
)

__all__ = ["MAX_ATTEMPTS", "Bench", "Tell", "duration"]

Tell = Callable[[str], None]
"""Callback that takes messages about the progress."""

MAX_ATTEMPTS = 3
"""Largest number of attempts to time networks on a noisy machine."""
MEDIAN_TOLERANCE = 0.004
"""Relative uncertainty of a timing; networks are timed until it is reached where a decision depends on the timing."""


@dc.dataclass(frozen=True)
class Bench:
    """Where and how networks are timed.

    Args:
        runtime: runtime that runs the networks.
        settings: settings of the runtime.
        example: inputs of every call, [batch, ...]; or a tuple of positional arguments or a dict of keywords.
        repeats: least number of timed calls of each network.
        spread: largest accepted interquartile range, as a fraction of the median.
        cache: folder of latency tables; None selects `edakari.latency.cache_folder()`.
    """

    runtime: Runtime
    settings: RunSettings
    example: Any
    repeats: int = 50
    spread: float = STEADY
    cache: Path | None = None

    def table(self) -> Table:
        """Return the table of this machine, runtime and settings.

        Raises:
            MeasurementError: the runtime is not installed, or the table cannot be trusted.
        """
        return open_table(key_of(self.runtime, self.settings), self.cache)

    def timed(
        self,
        models: Mapping[str, nn.Module],
        tolerance: float = math.inf,
        loaded: Callable[[float], None] = lambda seconds: None,
    ) -> dict[str, Timing]:
        """Time networks alternately, steady or not; see `edakari.latency.timing.measure`."""
        device = torch.device(self.settings.device)
        placed = {name: _on(device, model) for name, model in models.items()}
        example = mapped(self.example, lambda x: x.to(device))
        return measure(
            placed,
            example,
            self.runtime,
            settings=self.settings,
            repeats=self.repeats,
            tolerance=tolerance,
            loaded=loaded,
        )

    def other_calls(self, models: Mapping[str, nn.Module]) -> dict[str, float]:
        """Compare two networks in other kinds of calls where that is cheap; see `edakari.latency.timing.other_calls`.

        It is not on another device, on an accelerator, or where networks are compiled.
        """
        provider = getattr(self.runtime, "provider", "cpu")
        cheap = self.settings.device == "cpu" and provider == "cpu" and self.runtime.name != "torch_compile"
        if not cheap or isinstance(self.runtime, RemoteRuntime) or not isinstance(self.runtime, LocalRuntime):
            return {}
        return other_calls(models, self.example, self.runtime, self.settings)

    def expected(self, latencies_ms: Iterable[float], loading: float) -> str:
        """Estimate how long it takes to load networks, in `loading` s, and to time them at these latencies, ms."""
        calls = expected_seconds(latencies_ms, self.settings.warmup, self.repeats)
        return f"about {duration(calls + loading)}"

    def steady(self, models: Mapping[str, nn.Module], tolerance: float = MEDIAN_TOLERANCE) -> dict[str, Timing]:
        """Time networks alternately until the latency is known within a tolerance; try again on a noisy machine.

        Raises:
            MeasurementError: the timings stay noisy, or a network does not run. The message names the network and the
                spread.
        """
        for left in reversed(range(MAX_ATTEMPTS)):
            timings = self.timed(models, tolerance)
            try:
                for name, timing in timings.items():
                    require_steady(timing, f"the {name} network in {self.runtime.name}", self.spread)
            except MeasurementError:
                if not left:
                    raise
            else:
                break
        return timings


def duration(seconds: float) -> str:
    """Format a duration as text."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _on(device: torch.device, model: nn.Module) -> nn.Module:
    here = next(model.parameters(), torch.empty(0)).device
    return model if here == device else copied(model).to(device)
