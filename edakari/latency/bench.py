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
from edakari.latency.timing import RunSettings, Runtime, Timing, expected_seconds, measure, require_steady

__all__ = ["MAX_ATTEMPTS", "Bench", "Tell", "duration"]

Tell = Callable[[str], None]
"""Takes messages about the progress."""

MAX_ATTEMPTS = 3
"""Most times that networks are timed on a noisy machine."""
MEDIAN_TOLERANCE = 0.004
"""Relative uncertainty of a timing down to which networks are timed further where the timing decides."""


@dc.dataclass(frozen=True)
class Bench:
    """Where and how networks are timed.

    Args:
        runtime: that runs the networks.
        settings: how it runs them.
        example: inputs of every call, [batch, ...]; or a tuple of positional arguments or a dict of keywords.
        repeats: calls of each network that are timed, at least.
        spread: largest distance between the quartiles that is accepted, as a fraction of the median.
        cache: folder of latency tables; None is the usual one.
    """

    runtime: Runtime
    settings: RunSettings
    example: Any
    repeats: int = 50
    spread: float = STEADY
    cache: Path | None = None

    def table(self) -> Table:
        """The table of this machine, runtime and settings.

        Raises:
            MeasurementError: the runtime is not installed, or the table cannot be trusted.
        """
        return open_table(key_of(self.runtime, self.settings), self.cache)

    def timed(self, models: Mapping[str, nn.Module], tolerance: float = math.inf) -> dict[str, Timing]:
        """Latency of networks timed alternately, steady or not; see `edakari.latency.timing.time_callables`."""
        device = torch.device(self.settings.device)
        placed = {name: _on(device, model) for name, model in models.items()}
        example = mapped(self.example, lambda x: x.to(device))
        return measure(placed, example, self.runtime, settings=self.settings, repeats=self.repeats, tolerance=tolerance)

    def expected(self, latencies_ms: Iterable[float]) -> str:
        """Says how long it takes to time networks of about these latencies, once the runtime has loaded them."""
        return f"about {duration(expected_seconds(latencies_ms, self.settings.warmup, self.repeats))}"

    def steady(self, models: Mapping[str, nn.Module], tolerance: float = MEDIAN_TOLERANCE) -> dict[str, Timing]:
        """Latency of networks timed alternately until it is known within a tolerance; repeated on a noisy machine.

        Raises:
            MeasurementError: it stays noisy, or a network does not run; says which, and the spread.
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
    """A length of time in words."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _on(device: torch.device, model: nn.Module) -> nn.Module:
    here = next(model.parameters(), torch.empty(0)).device
    return model if here == device else copied(model).to(device)
