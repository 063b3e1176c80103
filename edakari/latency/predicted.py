"""What the closed loop asks of a predicted latency."""

from __future__ import annotations

from typing import Protocol

from edakari.core.protocols import Cost
from edakari.core.space import Sizes

__all__ = ["PredictedLatency"]


class PredictedLatency(Cost, Protocol):
    """A predicted latency: a cost that can be corrected by what was measured."""

    @property
    def constant(self) -> float:
        """Time of every call, ms."""

    @property
    def scale(self) -> float:
        """Factor of all that depends on sizes."""

    def predict(self, sizes: Sizes) -> float:
        """Latency that a network of these very sizes is expected to have, ms."""

    def corrected(self, sizes: Sizes, measured_ms: float) -> PredictedLatency:
        """The same cost scaled so that the total at some sizes is what was measured there.

        Args:
            sizes: of a network that was measured.
            measured_ms: its latency, ms.
        """

    def scaled(self, factor: float) -> PredictedLatency:
        """The same cost times a factor."""
