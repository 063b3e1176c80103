"""Times of all layers at once, against each layer's own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edakari.core.layout import Axis, Concat, Fixed, Layout, Product, axes, extent
from edakari.latency import Layer
from edakari.latency.layer_times import IncrementalTimes, LayerTimes, Part
from edakari.latency.surface import Surface

CONV, HEADS = Layer("convolution"), Layer("attention")
A, B, C, D = (Axis(name, size) for name, size in (("a", 40), ("b", 52), ("c", 8), ("d", 6)))
LAYOUTS = (A, B, Concat((A, B)), Product((C, D)), Concat((A, Fixed(5), A)))
HEAD_KNOTS = tuple(range(1, 9))


def whole(layout: Layout) -> int:
    return int(extent(layout, {}))


def surface(rng: np.random.Generator, widths: tuple[Layout, ...], smooth: bool) -> Surface:
    """A layer of random times; the first axis has a knot at each width, and no steps, if it is smooth."""
    knots = [tuple(sorted({*range(8, whole(each), 8), whole(each)})) for each in widths]
    if smooth:
        knots[0] = HEAD_KNOTS
    return Surface(
        knots, rng.uniform(1.0, 2.0, [len(each) for each in knots]), [not smooth, *[True] * len(widths)][: len(widths)]
    )


def network(seed: int) -> LayerTimes:
    rng = np.random.default_rng(seed)
    pairs = [*itertools.product(LAYOUTS[:4], LAYOUTS[2:]), *((each,) for each in LAYOUTS)]
    parts = [Part(CONV, pair, surface(rng, pair, False), int(rng.integers(1, 4))) for pair in pairs]
    parts += [Part(HEADS, (C, each), surface(rng, (C, each), True), 2) for each in LAYOUTS]
    return LayerTimes(parts)


def slowly(layers: LayerTimes, sizes: dict[str, int]) -> float:
    """The least time of any layer that is at least as wide, layer by layer."""
    total = 0.0
    for part in layers.parts:
        ranges = [
            range(int(extent(layout, sizes)), whole(layout) + 1) if axis.stepped else [int(extent(layout, sizes))]
            for layout, axis in zip(part.widths, part.surface.axes, strict=True)
        ]
        wider = [[*each[:1], *(w for w in each[1:] if w % 8 == 0), each[-1]] for each in ranges]
        total += part.calls * min(part.surface.at(*widths) for widths in itertools.product(*wider))
    return total


@pytest.mark.parametrize("seed", range(3))
def test_totals_are_those_of_the_layers_one_by_one(seed: int) -> None:
    layers, rng = network(seed), np.random.default_rng(seed)
    for _ in range(4):
        sizes = {axis.group: int(rng.integers(1, axis.size + 1)) for axis in (A, B, C, D)}
        assert layers.total(sizes) == pytest.approx(slowly(layers, sizes), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_steps_group_by_group_give_the_total(seed: int) -> None:
    layers, rng = network(seed), np.random.default_rng(seed)
    sizes = {axis.group: axis.size for axis in (A, B, C, D)}
    steps = IncrementalTimes(layers, sizes)
    for axis in rng.permutation([0, 1, 2, 3, 0, 3, 2, 1]):
        name, most = (A, B, C, D)[axis].group, (A, B, C, D)[axis].size
        choices = np.arange(most + 1)
        expected = [layers.total({**sizes, name: int(size)}) for size in choices]
        assert steps.totals(name, choices) == pytest.approx(expected, rel=1e-12)
        sizes[name] = int(rng.integers(0, most + 1))
        steps.move(name, sizes[name])
        assert steps.total == pytest.approx(layers.total(sizes), rel=1e-12)
    assert steps.totals("another", np.arange(3)) == pytest.approx([steps.total] * 3)
    steps.move("another", 1)
    assert {each.group for part in layers.parts for layout in part.widths for each in axes(layout)} == {*"abcd"}


def test_a_network_without_timed_layers_takes_no_time() -> None:
    assert LayerTimes([]).total({"a": 3}) == 0.0
