"""The limit of a latency, and timings of the dense and a pruned network that are compared with it."""

from __future__ import annotations

import dataclasses as dc
import statistics

from torch import nn

from edakari.core.budget import Term
from edakari.errors import MeasurementError
from edakari.latency.bench import MAX_ATTEMPTS, Bench
from edakari.latency.timing import Timing

__all__ = ["LatencyTarget", "TimedPair", "disturbed", "retime_if_noisy"]

DISTURBED = 0.03
"""A timing of the dense network counts as disturbed if it exceeds the fastest one by this fraction."""


@dc.dataclass(frozen=True, slots=True)
class TimedPair:
    """Latencies of the dense and the pruned network, timed alternately."""

    dense: Timing
    pruned: Timing


@dc.dataclass(frozen=True, slots=True)
class LatencyTarget:
    """The latency limit, and the latencies of the dense network.

    Args:
        limit_ms: largest latency that the budget allows, ms.
        dense_ms: latency of the dense network in each measurement, ms.
        relative: whether the limit is a fraction of the first of these latencies; later ones are then ignored.
    """

    limit_ms: float
    dense_ms: tuple[float, ...]
    relative: bool

    @classmethod
    def of(cls, term: Term, dense_ms: float) -> LatencyTarget:
        """Create the target of a budget's term, after the dense network was timed for the first time."""
        return cls(term.limit * (dense_ms if term.relative else 1.0), (dense_ms,), term.relative)

    def seen(self, pair: TimedPair) -> LatencyTarget:
        """Return the target after one more measurement of the dense network, which shows how fast the machine is."""
        return self if self.relative else dc.replace(self, dense_ms=(*self.dense_ms, pair.dense.median_ms))

    @property
    def speed_ms(self) -> float:
        """Latency of the dense network on an undisturbed machine, ms: the median of the undisturbed timings."""
        return statistics.median(each for each in self.dense_ms if not disturbed(each, min(self.dense_ms)))

    def relative_error(self, pair: TimedPair) -> float:
        """Distance of a network's latency above the limit, as a fraction of the limit.

        Both networks were timed alternately, so the ratio of their latencies does not depend on the speed of the
        machine at that time.
        """
        return pair.pruned.ratio * self.speed_ms / self.limit_ms - 1.0


def disturbed(dense_ms: float, quickest_ms: float) -> bool:
    """Whether the timing of the dense network shows that another program ran on the machine."""
    return dense_ms > (1.0 + DISTURBED) * quickest_ms


def retime_if_noisy(bench: Bench, dense: nn.Module, pruned: nn.Module, quickest_ms: float) -> TimedPair:
    """Time both networks alternately; try again if the machine was disturbed, as this changes the ratio too.

    Args:
        bench: how and where the networks are timed.
        dense: the dense network.
        pruned: the pruned network.
        quickest_ms: smallest latency of the dense network so far, ms.

    Raises:
        MeasurementError: the machine is too noisy at the first attempt.
    """
    networks = {"dense": dense, "pruned": pruned}
    best = TimedPair(**bench.steady(networks))
    for _ in range(MAX_ATTEMPTS - 1):
        if not disturbed(best.dense.median_ms, quickest_ms):
            break
        try:
            again = TimedPair(**bench.steady(networks))
        except MeasurementError:  # the machine became noisier
            break
        best = min(best, again, key=lambda pair: pair.dense.median_ms)
    return best
