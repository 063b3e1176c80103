import time

import pytest
import torch
from torch import nn

from edakari.cost.measure import RunSettings, Timing, measure, require_steady, time_callables
from edakari.cost.runtimes import runtime_named
from edakari.errors import MeasurementError, UnknownName
from edakari.testing.formula_runtime import FormulaRuntime

QUICK = ["onnxruntime", "torch"]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


def test_calls_are_interleaved_and_the_first_changes():
    order: list[str] = []
    timings = time_callables({name: (lambda name=name: order.append(name)) for name in "ab"}, warmup=1, repeats=3)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {timing.repeats for timing in timings.values()} == {3}


def test_the_median_is_of_the_timed_rounds_only():
    rounds = iter([0.05, 0.002, 0.002, 0.002])
    timing = time_callables({"x": lambda: time.sleep(next(rounds))}, warmup=1, repeats=3)["x"]
    assert 2.0 <= timing.minimum_ms <= timing.median_ms < 40
    assert timing.spread >= 0


def test_windows_lie_apart_and_count_alike(monkeypatch):
    clock = FormulaRuntime()
    monkeypatch.setattr("edakari.cost.measure.time", clock)
    takes = iter([9, 1, 1, 1, 9, 2, 2, 2, 9, 3, 3, 3])

    def call() -> None:
        clock.now_ns += 1_000_000 * next(takes)

    timing = time_callables({"x": call}, warmup=1, repeats=3, windows=3, pause=1.0)["x"]
    assert timing == Timing(median_ms=2.0, minimum_ms=1.0, spread=0.0, repeats=9)


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


def test_the_ratio_is_of_calls_in_the_same_round(monkeypatch):
    now = [0]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now[0])

    def caller(milliseconds):
        left = iter(milliseconds)

        def call():
            now[0] += next(left) * 1_000_000

        return call

    dense, pruned = caller([10, 10, 90, 90, 10]), caller([6, 54, 54, 54, 6])
    timings = time_callables({"dense": dense, "pruned": pruned}, 0, 5)
    assert timings["pruned"].ratio == pytest.approx(0.6)
    assert timings["pruned"].median_ms > 5 * timings["dense"].median_ms
    assert timings["dense"].ratio == 1.0
