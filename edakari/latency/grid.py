"""Which widths to time, so that what lies between can be interpolated although runtimes work in steps.

A runtime pads widths to its blocks (8 or 16 channels, by the processor) or takes a slower kernel where one does not
fit, so that time over width is a staircase, and not even a rising one: in ONNX Runtime a 3×3 convolution of 65 input
channels takes 1.5 times as long as one of 68. Interpolating across the steps would hide them. But the multiples of 16
all lie at the end of a step, the odd multiples of 8 all in its middle: each of these two `lanes` is smooth, and is
interpolated by itself, which is exact for steps of 8 and of 16. Other widths are not timed, save the whole one: they
are priced as the next multiple of 8, which a network could have for the same time or less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edakari.core.layout import Axis, Concat, Fixed, Layout, Product, axes, extent
from edakari.core.space import Group, legal_sizes
from edakari.latency.layers import Layer

__all__ = ["Knots", "knots_of", "lanes", "reachable", "stepped"]

Ints = npt.NDArray[np.int64]

Knots = tuple[int, ...]
"""Widths along one axis at which a layer is timed, rising."""

LANES = (16, 8)
UNSTEPPED = ("heads", "batch", "per_group", "elements", "operators")
"""Widths over which time is smooth."""
BLOCK = 16
"""Widths up to here are so few that they need no lanes."""
RUNGS = tuple(1 << power for power in range(17))
"""Knots as multiples of 1 or of a block: one an octave. Two an octave took 2.5 times as long for ResNet-50 and
predicted no better."""
ELEMENTS = tuple(1 << power for power in range(8, 32, 2))
"""Knots over a number of values."""
MOST = 4096
"""Most different widths that are kept of one layout."""


def stepped(layer: Layer, axis: str) -> bool:
    """Whether time over this width of a layer goes in steps."""
    return axis not in UNSTEPPED and (axis != "groups" or layer["ratio"] == (1, 1))


def lanes(widths: npt.ArrayLike) -> Ints:
    """Lane of each width: 16 for its multiples, 8 for its odd multiples, 0 for all others."""
    widths = np.asarray(widths, dtype=np.int64)
    return np.select([widths % 16 == 0, widths % 8 == 0], LANES, 0)


def knots_of(layer: Layer, axis: str, widths: Sequence[int] | Ints) -> Knots:
    """The widths to time for those that legal sizes reach, the least and the largest of each lane included.

    Args:
        layer: what is timed.
        axis: which of its widths.
        widths: all that can occur.
    """
    given = np.unique(np.asarray(widths, dtype=np.int64))
    low, high = int(given[0]), int(given[-1])
    if axis == "elements":
        return _between(ELEMENTS, low, high)
    if not stepped(layer, axis) or high <= BLOCK:
        return _between(RUNGS, low, high)
    padded = np.unique(np.minimum(-(-given // 8) * 8, high))
    found = {high}
    for lane in LANES:
        members = padded[lanes(padded) == lane]
        if len(members):
            # the odd multiples of 8 lie behind the multiples of 16
            ladder = [BLOCK * rung + lane % BLOCK for rung in (0, *RUNGS)]
            found.update(_between(ladder, int(members[0]), int(members[-1])))
    return tuple(sorted(found))


def _between(ladder: Sequence[int], low: int, high: int) -> Knots:
    return tuple(sorted({low, high, *(rung for rung in ladder if low < rung < high)}))


def reachable(layout: Layout, groups: Mapping[str, Group]) -> Ints:
    """Every extent that a layout can have while groups have legal sizes, rising; the ends of it where they are many.

    Args:
        layout: of one dimension.
        groups: those that may be sized, by name; others stay whole.
    """
    names = {axis.group for axis in axes(layout) if axis.group in groups}
    if len(names) == 1:
        # the same group may appear twice, and has one size in both places
        name = names.pop()
        return np.unique(extent(layout, {name: np.array(legal_sizes(groups[name]), dtype=np.int64)}))
    match layout:
        case Fixed(size) | Axis(_, size):
            return np.array([size])
        case Product(parts):
            return _combined(np.multiply, [reachable(part, groups) for part in parts], 1)
        case Concat(parts):
            return _combined(np.add, [reachable(part, groups) for part in parts], 0)


def _combined(combine: np.ufunc, parts: Sequence[Ints], start: int) -> Ints:
    found = np.array([start])
    for part in parts:
        found = np.unique(combine.outer(found, part))
        if len(found) > MOST:
            found = np.unique(found[np.linspace(0, len(found) - 1, MOST).astype(int)])
    return found
