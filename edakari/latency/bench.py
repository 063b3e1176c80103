"""Where and how networks are timed whole."""

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
"""Told in words what is going on."""

MAX_ATTEMPTS = 3
"""Most times that networks are timed anew where the machine is noisy."""
MEDIAN_TOLERANCE = 0.004
"""Uncertainty of a timing, as a share, up to which networks are timed further where it decides."""


@dc.dataclass(frozen=True)
class Bench:
    """Where and how networks are timed.

    Args:
        runtime: in which.
        settings: of the runtime.
        example: inputs of every call, [batch, ...]; or a tuple of positional arguments or a dict of keywords.
        repeats: calls of each network that are timed, at least.
        spread: largest distance between the quartiles that is accepted, as a share of the median.
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
        """Latency of networks in turns, steady or not; see `edakari.latency.timing.time_callables`."""
        device = torch.device(self.settings.device)
        placed = {name: _on(device, model) for name, model in models.items()}
        example = mapped(self.example, lambda x: x.to(device))
        return measure(placed, example, self.runtime, settings=self.settings, repeats=self.repeats, tolerance=tolerance)

    def expected(self, latencies_ms: Iterable[float]) -> str:
        """In words, how long networks of about these latencies take to be timed, once the runtime has loaded them."""
        return f"about {duration(expected_seconds(latencies_ms, self.settings.warmup, self.repeats))}"

    def steady(self, models: Mapping[str, nn.Module], tolerance: float = MEDIAN_TOLERANCE) -> dict[str, Timing]:
        """Latency of networks in turns, until it is known within a tolerance; again where the machine was noisy.

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
