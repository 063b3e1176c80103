"""The widths to time, so that latencies between them can be interpolated although runtimes work in blocks.

A runtime pads widths to its blocks (8 or 16 channels, depending on the processor), or takes a slower kernel where a
width does not fit. Latency over width is therefore a staircase, and not even a rising one: in ONNX Runtime, a 3×3
convolution of 65 input channels takes 1.5 times as long as one of 68. Interpolation across the steps would hide them.
But the multiples of 16 all lie at the end of a step, and the odd multiples of 8 all lie in its middle. Each of these
two `lanes` is smooth and is interpolated separately, which is exact for steps of 8 and of 16. Of the other widths, only
the unpruned one is timed. They cost as much as the next multiple of 8, which a network could have for the same time or
less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edakari.core.layout import Axis, Concat, Fixed, Layout, Product, axes, extent
from edakari.core.space import Group, legal_sizes
from edakari.latency.layers import Layer

__all__ = ["Ints", "Knots", "knots_of", "lanes", "reachable", "stepped"]

Ints = npt.NDArray[np.int64]

Knots = tuple[int, ...]
"""Widths along one axis at which a layer is timed, in ascending order."""

LANES = (16, 8)
UNSTEPPED = ("heads", "batch", "per_group", "elements", "operators")
"""Axes over which latency is smooth."""
BLOCK = 16
"""Largest width for which every width is timed, without lanes."""
RUNGS = tuple(1 << power for power in range(17))
"""Knots as multiples of 1 or of a block, one per octave. Two per octave took 2.5 times as long for ResNet-50, and
the predictions were not better."""
ELEMENTS = tuple(1 << power for power in range(8, 32, 2))
"""Knots over numbers of elements."""
MOST = 4096
"""Largest number of different widths that are kept for one layout."""


def stepped(layer: Layer, axis: str) -> bool:
    """Whether the latency of a layer over this width is a staircase."""
    return axis not in UNSTEPPED and (axis != "groups" or layer["ratio"] == (1, 1))


def lanes(widths: npt.ArrayLike) -> Ints:
    """Lane of each width: 16 for multiples of 16, 8 for odd multiples of 8, 0 for all others."""
    widths = np.asarray(widths, dtype=np.int64)
    return np.select([widths % 16 == 0, widths % 8 == 0], LANES, 0)


def knots_of(layer: Layer, axis: str, widths: Sequence[int] | Ints) -> Knots:
    """Return the widths to time for a range of legal widths; the least and largest of each lane are included.

    Args:
        layer: layer to be timed.
        axis: name of one of its widths.
        widths: all legal widths.
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
            # odd multiples of 8 follow the multiples of 16
            ladder = [BLOCK * rung + lane % BLOCK for rung in (0, *RUNGS)]
            found.update(_between(ladder, int(members[0]), int(members[-1])))
    return tuple(sorted(found))


def _between(ladder: Sequence[int], low: int, high: int) -> Knots:
    return tuple(sorted({low, high, *(rung for rung in ladder if low < rung < high)}))


def reachable(layout: Layout, groups: Mapping[str, Group], known: dict[object, Ints] | None = None) -> Ints:
    """Every extent that a layout can have for legal sizes, in ascending order; only the extremes if they are many.

    Args:
        layout: layout of one dimension.
        groups: groups that may be pruned, by name; all others keep their size.
        known: results for other layouts with the same groups, to which the new ones are added. A concatenation that
            begins like another one then takes one step per part that it adds.
    """
    known = {} if known is None else known
    if layout not in known:
        known[layout] = _reachable(layout, groups, known)
    return known[layout]


def _reachable(layout: Layout, groups: Mapping[str, Group], known: dict[object, Ints]) -> Ints:
    names = {axis.group for axis in axes(layout) if axis.group in groups}
    if len(names) == 1:
        # a group may appear twice, with the same size in both entries
        name = names.pop()
        return np.unique(extent(layout, {name: np.array(legal_sizes(groups[name]), dtype=np.int64)}))
    match layout:
        case Fixed(size) | Axis(_, size):
            return np.array([size])
        case Product(parts):
            return _combined(np.multiply, parts, groups, known)
        case Concat(parts):
            return _combined(np.add, parts, groups, known)


def _combined(
    combine: np.ufunc, parts: tuple[Layout, ...], groups: Mapping[str, Group], known: dict[object, Ints]
) -> Ints:
    start = next((count for count in range(len(parts) - 1, 0, -1) if (combine, parts[:count]) in known), 0)
    found = known[combine, parts[:start]] if start else np.array([combine.identity])
    for part in parts[start:]:
        found = np.unique(combine.outer(found, reachable(part, groups, known)))
        if len(found) > MOST:
            found = np.unique(found[np.linspace(0, len(found) - 1, MOST).astype(int)])
    known[combine, parts] = found
    return found
