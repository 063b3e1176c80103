"""The time of a layer over its widths, interpolated between the widths that were timed."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edakari.latency.grid import BLOCK, Knots, lanes

__all__ = ["SPACING", "Surface"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bracket = tuple[Ints, Ints, Floats, npt.NDArray[np.bool_]]

SPACING = 8
"""Distance of the widths at which a staircase can rise."""


class Surface:
    """Time of one layer over its widths.

    Args:
        knots: knots of each axis, in ascending order.
        times: time at every combination of knots, ms, float [knots, ...].
        steps: for each axis, whether the time is a staircase over it.

    Attributes:
        axes: the axes.
        times: time at every combination of knots and 0, ms; within a lane it never falls.
        fastest: time of the fastest layer that is at least as wide, ms. Along a stepped axis, it is known at 0, at
            every multiple of `SPACING` and at the largest width; along any other at its knots.
    """

    def __init__(self, knots: Sequence[Knots], times: Floats, steps: Sequence[bool]) -> None:
        self.axes = [Axis.of(each, step) for each, step in zip(knots, steps, strict=True)]
        # a layer of width 0 does not exist
        self.times = np.pad(times, [(1, 0)] * times.ndim)
        for indices in itertools.product(*(axis.lanes.values() for axis in self.axes)):
            # within a lane, a wider layer is never faster, so a dip is noise
            block = self.times[np.ix_(*indices)]
            for axis in range(block.ndim):
                block = np.maximum.accumulate(block, axis=axis)
            self.times[np.ix_(*indices)] = block
        self.fastest = self._fastest()

    def at(self, *widths: int) -> float:
        """Time at these widths, ms; widths that fit no lane count as the next ones that do."""
        found = self._best(widths, exactly=True)
        return found if np.isfinite(found) else self._best(widths, exactly=False)

    def _best(self, widths: Sequence[int], *, exactly: bool) -> float:
        choices = [axis.brackets(np.array([each]), exactly) for axis, each in zip(self.axes, widths, strict=True)]
        found = [self._over(each) for each in itertools.product(*choices) if all(bracket[3].all() for bracket in each)]
        return float(min(found, default=np.array(np.inf)).item())

    def _over(self, brackets: Sequence[Bracket]) -> Floats:
        """Times at all combinations of the bracketed widths, float [widths, ...]."""
        times = self.times
        for axis, bracket in zip(self.axes, brackets, strict=True):
            times = np.tensordot(times, axis.weights(bracket), (0, 1))
        return times

    def _fastest(self) -> Floats:
        found = np.full([len(axis.places) for axis in self.axes], np.inf)
        for brackets in itertools.product(*(axis.brackets(axis.places, exactly=False) for axis in self.axes)):
            allowed = np.ix_(*(bracket[3] for bracket in brackets))
            found[allowed] = np.minimum(found[allowed], self._over(brackets)[allowed])
        return found


@dc.dataclass(frozen=True)
class Axis:
    """Knots along one axis, preceded by 0, and the lane of each knot.

    Lane 0 is the unpruned width if 8 does not divide it, or all knots if the time has no steps.

    Args:
        knots: 0 and the knots, in ascending order.
        lanes: indices of the knots of each lane.
        stepped: whether the time is a staircase.
    """

    knots: Ints
    lanes: Mapping[int, Ints]
    stepped: bool

    @classmethod
    def of(cls, knots: Knots, step: bool) -> Axis:
        """Sort the knots into lanes."""
        every = np.array((0, *knots), dtype=np.int64)
        steps = step and knots[-1] > BLOCK
        found = lanes(every) if steps else np.zeros_like(every)
        names = np.unique(found[1:])
        return cls(every, {int(lane): np.flatnonzero((found == lane) | (every == 0)) for lane in names}, steps)

    @property
    def places(self) -> Ints:
        """Widths between which the time of the fastest layer that is at least as wide is known, int64 [places]."""
        if not self.stepped:
            return self.knots
        most = int(self.knots[-1])
        return np.append(np.arange(0, most, SPACING), most)

    def brackets(self, widths: Ints, exactly: bool) -> list[Bracket]:
        """For each lane: knots around each width, weight of the upper knot, and whether the lane applies."""
        found = []
        for lane, indices in self.lanes.items():
            knots = self.knots[indices]
            member = self._next_in(lane, widths) if self.stepped else widths
            allowed = member == widths if exactly else member <= knots[-1]
            high = np.clip(np.searchsorted(knots, member), 1, len(knots) - 1)
            fraction = (member - knots[high - 1]) / (knots[high] - knots[high - 1])
            found.append((indices[high - 1], indices[high], fraction, allowed))
        return found

    def weights(self, bracket: Bracket) -> Floats:
        """Weight of each knot in the time at each bracketed width, float64 [widths, knots]."""
        low, high, fraction, _ = bracket
        rows, found = np.arange(len(low)), np.zeros((len(low), len(self.knots)))
        found[rows, low] = 1.0 - fraction
        found[rows, high] += fraction
        return found

    def _next_in(self, lane: int, widths: Ints) -> Ints:
        """The smallest width of a lane that is at least as large; 0 stays 0."""
        if lane == 16:
            return -(-widths // 16) * 16
        odd = -(-(widths - 8) // 16) * 16 + 8 if lane == 8 else self.knots[-1]
        return np.where(widths == 0, 0, odd)
