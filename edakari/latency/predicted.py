"""The protocol of predicted latencies that the closed loop uses."""

from __future__ import annotations

from typing import Protocol

from edakari.core.protocols import Cost
from edakari.core.space import Sizes

__all__ = ["PredictedLatency"]


class PredictedLatency(Cost, Protocol):
    """A predicted latency: a cost that measurements can correct."""

    @property
    def constant(self) -> float:
        """Time of every call that does not depend on sizes, ms."""

    @property
    def scale(self) -> float:
        """Factor of all times that depend on sizes."""

    def predict(self, sizes: Sizes) -> float:
        """Expected latency of a network with exactly these sizes, ms."""

    def weights(self, sizes: Sizes) -> float:
        """Millions of weights that a call reads; 0 if their number does not depend on sizes."""

    def corrected(self, sizes: Sizes, measured_ms: float) -> PredictedLatency:
        """Return the same cost, scaled so that its total at some sizes is the measured latency.

        Args:
            sizes: sizes of a measured network.
            measured_ms: latency of this network, ms.
        """

    def scaled(self, factor: float) -> PredictedLatency:
        """Return the same cost times a factor."""

    def named(self, name: str) -> PredictedLatency:
        """Return the same cost under another name in a budget, such as `latency@pi`."""
