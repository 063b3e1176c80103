"""How fast a machine is taken to be, and timings that something else disturbed."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Iterator, Mapping

import pytest
from torch import nn

from edakari.core.plan import Plan
from edakari.errors import InfeasibleBudget, MeasurementError
from edakari.latency.budget_loop import Trials
from edakari.latency.closed_loop import NEAREST, _edge
from edakari.latency.target import LatencyTarget, TimedPair, retime_if_noisy
from edakari.latency.timing import Timing

NETWORK = nn.Identity()


def pair(dense_ms: float, ratio: float = 0.5) -> TimedPair:
    return TimedPair(Timing(dense_ms, dense_ms, 0.0, 10), Timing(ratio * dense_ms, ratio * dense_ms, 0.0, 10, ratio))


@dc.dataclass
class Busy:
    """A bench whose machine is slowed down for a while."""

    pairs: Iterator[TimedPair]

    def steady(self, models: Mapping[str, object]) -> dict[str, Timing]:
        found = next(self.pairs, None)
        if found is None:
            raise MeasurementError("too noisy")
        return {"dense": found.dense, "pruned": found.pruned}


def test_disturbed_timings_of_the_dense_network_do_not_count() -> None:
    aim = LatencyTarget(1.0, (2.04,), relative=False).seen(pair(3.0)).seen(pair(2.0))
    assert aim.speed_ms == pytest.approx(2.02)
    assert aim.relative_error(pair(7.0, 0.6)) == pytest.approx(0.6 * 2.02 - 1)


def test_a_share_is_of_what_was_measured_first() -> None:
    aim = LatencyTarget(1.0, (2.0,), relative=True).seen(pair(1.0))
    assert aim.relative_error(pair(7.0, 0.6)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("timings", "taken"), [((2.05, 2.0), 2.05), ((2.1, 2.04, 1.9), 2.04), ((4.0, 3.0, 3.5, 2.0), 3.0)]
)
def test_disturbed_pairs_are_timed_again_up_to_three_times(timings: tuple[float, ...], taken: float) -> None:
    found = retime_if_noisy(Busy(map(pair, timings)), NETWORK, NETWORK, 2.0)  # type: ignore[arg-type]
    assert found.dense.median_ms == taken


def test_a_machine_that_becomes_too_noisy_leaves_what_was_timed() -> None:
    assert retime_if_noisy(Busy(iter([pair(3.0)])), NETWORK, NETWORK, 2.0).dense.median_ms == 3.0  # type: ignore[arg-type]
    with pytest.raises(MeasurementError, match="too noisy"):
        retime_if_noisy(Busy(iter([])), NETWORK, NETWORK, 2.0)  # type: ignore[arg-type]


def test_the_edge_of_what_is_possible_is_found() -> None:
    def solved(factors: Mapping[str, float]) -> Plan:
        if factors["latency@a"] > 1.37:
            raise InfeasibleBudget("too small", {})
        return Plan((), "", dict(factors))

    found = _edge(solved, {"latency@a": 1.0, "latency@b": 3.0}, {"latency@a": 2.0, "latency@b": 3.0})
    assert found is not None
    plan, factors = found
    assert plan.inputs == factors
    assert 1.37 / (1 + NEAREST) <= factors["latency@a"] <= 1.37
    assert factors["latency@b"] == pytest.approx(3.0)
    assert _edge(solved, {"latency@a": 1.369}, {"latency@a": 1.371}) is None


def trials(*offs: float, limit_ms: float = 1.0) -> Trials:
    """Rounds that lie so far off a limit; the networks were asked for by factors 1, 2, …"""
    found = Trials(LatencyTarget(limit_ms, (2.0,), relative=True))
    for number, off in enumerate(offs):
        timing = pair(2.0, (1 + off) * limit_ms / 2.0)
        found.add(Plan((), "", {}), 1.0 + number, 1.0, timing, {"group": number})
    return found


class FixedCost:
    """Predicts one latency for every network."""

    def __init__(self, ms: float) -> None:
        self.ms = ms

    def total(self, sizes: Mapping[str, int]) -> float:
        return self.ms


@pytest.mark.parametrize(
    ("offs", "asked", "factor", "index", "predicted", "following"),
    [
        # nothing else is known: what makes the cost right for the network just measured
        ((0.5,), [], 1.0, 0, 0.6, 1.5 / 0.6),
        ((-0.2,), [], 1.0, 0, 0.8, 0.8 / 0.8),
        # a slow and a quick network, and the right factor lies between theirs
        ((0.5, -0.2), [(1.0, 0)], 2.0, 1, 0.5, 0.8 / 0.5),
        # it does not: half way between the two, by ratio
        ((0.5, -0.2), [(1.0, 0)], 2.0, 1, 0.1, math.sqrt(2.0)),
        ((0.5, -0.2), [(1.0, 0)], 2.0, 1, 0.9, math.sqrt(2.0)),
        # a network that is known again: half way, wherever the right factor lies
        ((0.5, -0.2), [(1.0, 0), (2.0, 1)], 1.5, 0, 0.9, math.sqrt(3.0)),
        ((0.5, -0.2), [(1.0, 0), (2.0, 1)], 1.5, 1, 0.5, math.sqrt(1.5)),
        # a network that is known again, and only slow or only quick ones: no other factor makes a difference
        ((0.5,), [(1.0, 0)], 2.0, 0, 0.9, None),
        ((-0.2,), [(2.0, 0)], 1.0, 0, 0.9, None),
        # a quick network asked for by the smaller factor brackets nothing
        ((-0.2, 0.5), [(1.0, 0)], 2.0, 1, 0.5, 1.5 / 0.5),
    ],
)
def test_the_next_factor(
    offs: tuple[float, ...],
    asked: list[tuple[float, int]],
    factor: float,
    index: int,
    predicted: float,
    following: float | None,
) -> None:
    known = trials(*offs)
    known.asked = asked.copy()
    found = known.next_factor(factor, index, FixedCost(predicted))  # type: ignore[arg-type]
    assert found == (None if following is None else pytest.approx(following))
    assert known.asked == [*asked, (factor, index)]
