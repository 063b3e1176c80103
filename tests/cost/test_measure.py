import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import nn

from edakari.core.far_side.loops import CALLS, MOST_TURNS, TURNS
from edakari.errors import MeasurementError, UnknownName
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import (
    RunSettings,
    Timing,
    _timing,
    expected_seconds,
    measure,
    require_steady,
    time_callables,
)
from edakari.testing.formula_runtime import FormulaRuntime

QUICK = ["onnxruntime", "torch"]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def clocked(monkeypatch, takes: Iterable[float]) -> Callable[[], None]:
    """A call that takes these times, ms, one after the other, by a clock that stands still otherwise."""
    clock, left = FormulaRuntime(), iter(takes)
    monkeypatch.setattr("edakari.latency.timing.time", clock)

    def call() -> None:
        clock.now_ns += round(1e6 * next(left))

    return call


def test_networks_take_long_turns_and_the_first_changes(monkeypatch):
    order: list[str] = []
    slow = clocked(monkeypatch, itertools.repeat(60))
    calls = {name: (lambda name=name: (order.append(name), slow())) for name in "ab"}
    timings = time_callables(calls, warmup=1, repeats=11)
    assert "".join(order) == 7 * "a" + 7 * "b" + 6 * "b" + 6 * "a"
    assert {timing.repeats for timing in timings.values()} == {11}


def test_quick_calls_are_timed_more_often_than_asked_for(monkeypatch):
    call = clocked(monkeypatch, [9, 9, 9, *range(10), 20])
    timing = time_callables({"x": call}, warmup=1, repeats=5)["x"]
    assert timing == Timing(median_ms=5.0, minimum_ms=0.0, spread=5.0, repeats=11)


@pytest.mark.parametrize("takes_ms", [5, 25])
@pytest.mark.parametrize("repeats", [1, 20, 100])
def test_how_long_timing_takes_is_known_beforehand(monkeypatch, takes_ms, repeats):
    called: list[str] = []
    slow = clocked(monkeypatch, itertools.repeat(takes_ms))
    calls = {name: (lambda name=name: (called.append(name), slow())) for name in "ab"}
    time_callables(calls, warmup=3, repeats=repeats)
    expected_s = expected_seconds([takes_ms, takes_ms], warmup=3, repeats=repeats)
    assert expected_s == pytest.approx(len(called) * takes_ms / 1e3)


@pytest.mark.parametrize("networks", [1, 2, 7])
def test_how_long_loading_takes_is_known_when_two_networks_are_loaded(monkeypatch, networks):
    """The first file is exported in 4 s; others are resized in 1 s."""
    runtime, takes, told = FormulaRuntime(), itertools.chain([4.0], itertools.repeat(1.0)), []
    monkeypatch.setattr("edakari.latency.timing.time", runtime)

    def prepare(*_):
        runtime.now_ns += round(1e9 * next(takes))
        return lambda: setattr(runtime, "now_ns", runtime.now_ns + 1_000_000)

    runtime.prepare = prepare
    models = {str(index): network() for index in range(networks)}
    measure(models, torch.randn(1, 3, 8, 8), runtime, repeats=1, loaded=told.append)
    assert told == [pytest.approx(4.0 + networks - 1, abs=0.1)]


def test_drift_is_not_in_the_ratio(monkeypatch):
    """The machine is half as fast in the second of three rounds; x takes twice the time of the first all along."""
    call = clocked(monkeypatch, [time for time in (100, 200, 400, 200, 100, 200) for _ in range(5)])
    timings = time_callables({"first": call, "x": call}, warmup=0, repeats=15)
    assert (timings["x"].ratio, timings["x"].median_ms) == (2.0, 200.0)


@pytest.mark.parametrize(("scatter", "rounds"), [(0, TURNS), (6, 31), (60, MOST_TURNS)])
def test_scattering_ratios_are_timed_until_they_are_known(monkeypatch, scatter, rounds):
    """x takes 200 ms plus or minus `scatter`, turn by turn, beside 100 ms of the first."""
    calls = [time for turn in range(MOST_TURNS) for time in _round(turn, 200 + (-1) ** turn * scatter)]
    call = clocked(monkeypatch, calls)
    found = time_callables({"first": call, "x": call}, warmup=0, repeats=TURNS * CALLS, tolerance=0.01)["x"]
    assert found.repeats == CALLS * rounds
    assert (found.uncertainty <= 0.01) == (rounds < MOST_TURNS)


def _round(number: int, time: int) -> list[int]:
    first, x = CALLS * [100], CALLS * [time]
    return x + first if number % 2 else first + x


def test_the_uncertainty_is_the_standard_error_of_a_median(monkeypatch):
    """Of ten normal turns a network's median is off by what is told, on the whole."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(50):
        call = clocked(monkeypatch, np.repeat(generator.normal(100, 4, 10), CALLS).tolist())
        found.append(time_callables({"x": call}, warmup=0, repeats=TURNS * CALLS)["x"])
    true = np.std([timing.median_ms for timing in found]) / 100
    assert np.mean([timing.uncertainty for timing in found]) == pytest.approx(true, rel=0.25)


@pytest.mark.parametrize(("warmup", "repeats"), [(0, 0), (-1, 1)])
def test_senseless_rounds_are_refused(warmup, repeats):
    with pytest.raises(MeasurementError, match="repeats"):
        time_callables({"x": lambda: None}, warmup, repeats)


@pytest.mark.parametrize("name", QUICK)
def test_a_runtime_times_both_networks_and_leaves_them(name):
    models = {"dense": network().train(), "pruned": network().eval()}
    before = torch.get_num_threads()
    settings = RunSettings(threads=1, warmup=1)
    timings = measure(models, torch.zeros(2, 3, 16, 16), runtime_named(name), settings=settings, repeats=3)
    assert set(timings) == {"dense", "pruned"}
    assert all(isinstance(timing, Timing) and timing.median_ms > 0 for timing in timings.values())
    assert models["dense"].training
    assert not models["pruned"].training
    assert torch.get_num_threads() == before


def test_more_work_takes_longer():
    small, large = nn.Linear(64, 64), nn.Sequential(*[nn.Linear(512, 512) for _ in range(20)], nn.Linear(512, 8))
    timings = measure(
        {"small": nn.Sequential(nn.Linear(512, 64), small), "large": large},
        torch.zeros(64, 512),
        runtime_named("torch"),
        settings=RunSettings(threads=1, warmup=2),
        repeats=9,
    )
    assert timings["large"].median_ms > timings["small"].median_ms


@pytest.mark.parametrize("name", QUICK)
def test_a_network_that_does_not_run_is_named(name):
    with pytest.raises(MeasurementError, match=f"dense network .*{name}|dense network in {name}"):
        measure({"dense": network()}, torch.zeros(1, 5, 16, 16), runtime_named(name), repeats=1)


def test_an_unknown_runtime_gets_the_nearest():
    with pytest.raises(UnknownName, match="onnxruntime"):
        runtime_named("onnx")


def test_a_noisy_timing_is_refused_with_its_spread():
    require_steady(Timing(10.0, 9.0, 1.0, 50), "the pruned network")
    with pytest.raises(MeasurementError, match=r"the pruned network is too noisy .* 10 ms with 3 ms .* 30% where 15%"):
        require_steady(Timing(10.0, 8.0, 3.0, 50), "the pruned network")


def test_a_ratio_is_that_of_turns_next_to_each_other() -> None:
    # the machine becomes slower and quicker again, and both networks with it
    pruned, dense = [[1.0], [2.0], [4.0]], [[2.0], [4.0], [8.0]]
    assert _timing(pruned, dense).ratio == 0.5
    # one turn was disturbed: the medians of all calls would say 1
    assert _timing([[1.0], [2.0], [3.0]], [[2.0], [4.0], [1.0]]).ratio == 0.5
