"""Several latencies under one budget: the closed loop against brute force on devices whose times are known."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Cost
from edakari.core.space import Group, Sizes
from edakari.errors import InfeasibleBudget, MeasurementError
from edakari.latency.budget_loop import MISS, LoopRound, LoopSettings, affine, proportional
from edakari.latency.closed_loop import ClosedLoop, TimedLatency
from edakari.latency.target import LatencyTarget, TimedPair
from edakari.latency.timing import Timing
from edakari.latency.whole import SurrogateLatency

WIDTHS = {"first": 24, "second": 24, "third": 24}
SPACE = list(itertools.product(*(range(1, width + 1) for width in WIDTHS.values())))
"""Every network."""
VALUES = (1.0, 1.3, 0.8)
"""Value of each channel, which falls with the width of its group."""


@dc.dataclass(frozen=True)
class Weighted:
    """A cost with a weight for each group."""

    weights: tuple[float, ...]
    constant: float = 0.0
    name: str = "macs"
    unit: str = "MAC"

    def at(self, sizes: Sequence[int]) -> float:
        return self.constant + float(np.dot(self.weights, sizes))

    def total(self, sizes: Sizes) -> float:
        return self.at([sizes.get(name, width) for name, width in WIDTHS.items()])

    def curve(self, group: Group, sizes: Sizes) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([self.total({**sizes, group.name: size}) for size in range(group.size + 1)])


@dc.dataclass(frozen=True)
class Device:
    """A device, what is believed of it, and its limit.

    Args:
        believed: predicted latency, ms.
        true: latency, ms, of the predicted one.
        fraction: limit as a fraction of the dense network's latency.
    """

    believed: Weighted
    true: Callable[[float], float]
    fraction: float

    def latency(self, sizes: Sequence[int]) -> float:
        return self.true(self.believed.at(sizes))

    @property
    def dense(self) -> float:
        return self.latency(tuple(WIDTHS.values()))

    @property
    def limit(self) -> float:
        return self.fraction * self.dense


def value(sizes: Sequence[int]) -> float:
    return sum(weight * size**0.7 for weight, size in zip(VALUES, sizes, strict=True))


BY_VALUE = sorted(SPACE, key=value, reverse=True)


def plan_of(sizes: Sequence[int]) -> Plan:
    return Plan(tuple(KeepChannels(n, tuple(range(s))) for n, s in zip(WIDTHS, sizes, strict=True)), "", {})


def sizes_of(plan: Plan) -> tuple[int, ...]:
    return tuple(plan.sizes()[name] for name in WIDTHS)


def solver(limits: Mapping[str, float]) -> Callable[[Sequence[Cost]], Plan]:
    """The most valuable network whose predicted costs are within limits, by brute force."""

    def solve(costs: Sequence[Cost]) -> Plan:
        at = {cost.name: cost for cost in costs}
        names = list(WIDTHS)
        for sizes in BY_VALUE:
            known = dict(zip(names, sizes, strict=True))
            if all(at[name].total(known) <= limit for name, limit in limits.items()):
                return plan_of(sizes)
        raise InfeasibleBudget("nothing is fast enough", {})

    return solve


def timed(name: str, device: Device, settings: LoopSettings) -> TimedLatency:
    def measure(plan: Plan) -> TimedPair:
        ms, dense = device.latency(sizes_of(plan)), device.dense
        return TimedPair(Timing(dense, dense, 0.0, 10), Timing(ms, ms, 0.0, 10, ms / dense))

    cost = SurrogateLatency(device.believed).corrected({}, device.dense).named(name)
    return TimedLatency(cost, LatencyTarget(device.limit, (device.dense,), relative=True), measure, settings)


def loop(
    devices: Mapping[str, Device], settings: LoopSettings, more: Mapping[str, float] = {}, others: Sequence[Cost] = ()
) -> tuple[tuple[int, ...], Mapping[str, tuple[LoopRound, ...]]]:
    latencies = [timed(name, device, settings) for name, device in devices.items()]
    solve = solver({**{name: device.limit for name, device in devices.items()}, **more})
    costs = [*(each.cost for each in latencies), *others]
    plan, rounds = ClosedLoop(latencies, lambda number, name, found: None).run(solve, costs, None)
    return sizes_of(plan), rounds


WIDE, NARROW, EVEN = Weighted((4.0, 1.0, 1.0)), Weighted((1.0, 1.0, 4.0)), Weighted((1.0, 1.0, 1.0))
TRUTHS: Mapping[str, Callable[[float], float]] = {
    "as predicted": lambda ms: ms,
    "a constant besides": lambda ms: 20.0 + 0.8 * ms,
    "slower than predicted where narrow": lambda ms: 40.0 * (ms / 40.0) ** 0.85,
    "faster than predicted where narrow": lambda ms: ms**1.2,
}


@pytest.mark.parametrize("first", TRUTHS)
@pytest.mark.parametrize("second", TRUTHS)
@pytest.mark.parametrize("fractions", [(0.6, 0.6), (0.5, 0.75), (0.8, 0.45)])
@pytest.mark.parametrize("settings", [LoopSettings(5, proportional), LoopSettings(12, affine)], ids=["table", "whole"])
def test_the_best_network_within_both_limits_is_found(
    first: str, second: str, fractions: tuple[float, float], settings: LoopSettings
) -> None:
    devices = {
        "latency@a": Device(WIDE, TRUTHS[first], fractions[0]),
        "latency@b": Device(NARROW, TRUTHS[second], fractions[1]),
    }
    found, rounds = loop(devices, settings)
    for device in devices.values():
        assert device.latency(found) <= device.limit * (1 + MISS)
    tight = 1 - 2 * MISS
    best = next(s for s in BY_VALUE if all(each.latency(s) <= tight * each.limit for each in devices.values()))
    assert value(found) >= value(best)
    assert (
        len({tuple(each.sizes.items()) for each in rounds["latency@a"]}) == len(rounds["latency@a"]) <= settings.rounds
    )
    assert [each.sizes for each in rounds["latency@a"]] == [each.sizes for each in rounds["latency@b"]]


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("other", TRUTHS)
def test_a_latency_that_does_not_bind_changes_nothing(truth: str, other: str) -> None:
    binding = {"latency@a": Device(WIDE, TRUTHS[truth], 0.6)}
    alone, _ = loop(binding, LoopSettings())
    found, rounds = loop({**binding, "latency@b": Device(EVEN, TRUTHS[other], 0.95)}, LoopSettings())
    assert found == alone
    assert max(each.relative_error for each in rounds["latency@b"]) < -0.05


def test_another_cost_may_bind_in_place_of_both() -> None:
    devices = {
        "latency@a": Device(WIDE, TRUTHS["a constant besides"], 0.9),
        "latency@b": Device(NARROW, TRUTHS["as predicted"], 0.9),
    }
    macs = EVEN.total({})
    found, rounds = loop(devices, LoopSettings(), {"macs": 0.4 * macs}, [EVEN])
    assert EVEN.at(found) <= 0.4 * macs
    assert value(found) == max(value(sizes) for sizes in SPACE if EVEN.at(sizes) <= 0.4 * macs)
    assert len(rounds["latency@a"]) == 1


def test_a_limit_that_no_network_meets_is_named() -> None:
    stuck = Device(NARROW, lambda ms: 1000.0 + 0.001 * ms, 0.9)
    with pytest.raises((MeasurementError, InfeasibleBudget)) as caught:
        loop({"latency@a": Device(WIDE, TRUTHS["as predicted"], 0.9), "latency@b": stuck}, LoopSettings())
    if isinstance(caught.value, MeasurementError):
        assert "latency@b: the pruned network takes" in str(caught.value)
