"""How calls follow each other: steady calls, calls with flushed caches, and calls with other work in between."""

from __future__ import annotations

import dataclasses as dc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.far_side import loops
from edakari.errors import MeasurementError
from edakari.graph import trace
from edakari.latency import key_of, runtimes
from edakari.latency.options import RuntimeOptions
from edakari.latency.runnable import faults
from edakari.latency.runtimes import runtime_named
from edakari.latency.timing import RunSettings, measure
from edakari.pipeline import LatencySettings
from edakari.testing.formula_runtime import FormulaRuntime
from tests.latency.test_other_device import command

EXAMPLE = torch.zeros(1, 1, 8, 8)


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def test_other_work_runs_before_each_call_and_is_not_timed() -> None:
    now, said = [0], []

    def call(name: str, takes: int) -> Callable[[], None]:
        def run() -> None:
            now[0] += takes
            said.append(name)

        return run

    turns = loops.alternated(
        {"a": call("a", 5_000_000), "b": call("b", 7_000_000)},
        warmup=2,
        repeats=30,
        clock=lambda: now[0],
        before=call("work", 900_000_000),
    )
    assert {time for turn in turns["a"] for time in turn} == {5.0}
    assert {time for turn in turns["b"] for time in turn} == {7.0}
    assert said[::2] == ["work"] * (len(said) // 2)
    assert "work" not in said[1::2]
    assert [len(turn) for turn in turns["a"]] == [5] * 6


@pytest.mark.parametrize(
    ("sizes", "least"),
    [(["48K", "2048K", "8M"], 8 * 2**20), (["32K", "512K"], 2**19), ([], loops.UNKNOWN_CACHE - 1)],
)
def test_a_flush_is_larger_than_every_cache(
    sizes: list[str], least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, size in enumerate(sizes):
        (tmp_path / f"size{index}").write_text(f"{size}\n")
    monkeypatch.setattr(loops.glob, "glob", lambda pattern: [str(path) for path in tmp_path.iterdir()])
    assert loops.flush_bytes() > least
    assert loops.flush_bytes() % loops.LINE == 0


def test_kinds_of_calls_touch_as_much_memory_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    zeros = loops.np.zeros
    monkeypatch.setattr(loops.np, "zeros", lambda *given: made.append(given[0]) or zeros(*given))
    monkeypatch.setattr(loops, "STREAM", 2**15)
    monkeypatch.setattr(loops, "flush_bytes", lambda: 2**14)
    assert loops.before_calls("steady") is None
    for kind in ("cold", "stream"):
        work = loops.before_calls(kind)
        assert work is not None
        work()
    assert made == [2**14 // 8, 2**15 // 8]


def test_calls_are_a_part_of_a_tables_key() -> None:
    runtime = FormulaRuntime()
    keys = {kind: key_of(runtime, RunSettings(calls=kind)).digest for kind in loops.KINDS_OF_CALLS}
    assert len(set(keys.values())) == 3
    assert "calls" not in key_of(runtime, RunSettings()).settings  # tables of steady calls need not say it


@dc.dataclass
class CachedRuntime(FormulaRuntime):
    """A runtime on a machine with caches: a call after other work takes longer for each weight.

    Args:
        penalty: additional time of each weight, in ms, by the kind of calls.
        kind: kind of the calls that come next, until one is made.
    """

    penalty: dict[str, float] = dc.field(default_factory=lambda: {"steady": 0.0, "cold": 3e-5, "stream": 1e-5})
    kind: str = "steady"

    def true(self, model: nn.Module, kind: str) -> float:
        weights = sum(parameter.numel() for parameter in model.parameters())
        return self.latency(trace(model, EXAMPLE), {}) + self.penalty[kind] * weights

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        times = {kind: self.true(model, kind) for kind in self.penalty}

        def call() -> None:
            self.now_ns += round(times[self.kind] * 1e6)
            self.kind = "steady"

        return call

    def before(self, kind: str) -> Callable[[], None] | None:
        """What takes the place of `before_calls`."""
        return None if kind == "steady" else lambda: setattr(self, "kind", kind)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CachedRuntime:
    found = CachedRuntime(factor=1.2, constant=0.2)
    monkeypatch.setitem(runtimes.RUNTIMES._registered, found.name, lambda: found)
    monkeypatch.setattr("edakari.latency.timing.time", found)
    monkeypatch.setattr("edakari.latency.timing.before_calls", found.before)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    return found


@pytest.mark.parametrize("kind", loops.KINDS_OF_CALLS)
def test_the_budget_is_met_in_the_kind_of_calls_that_was_chosen(runtime: CachedRuntime, kind: Any) -> None:
    model = wide()
    settings = LatencySettings(runtime="formula", repeats=5, networks=4, calls=kind)
    timed = edakari.prune(model, EXAMPLE, "latency<=70%", latency=settings).report
    small = edakari.prune(model, EXAMPLE, "latency<=70%", latency=settings).model
    (found,) = timed["latencies"].values()
    ratios = {each: runtime.true(small, each) / runtime.true(model, each) for each in loops.KINDS_OF_CALLS}
    assert len({round(ratio, 3) for ratio in ratios.values()}) == 3  # so that it matters which one is met
    assert -0.1 < ratios[kind] / 0.7 - 1 <= 0.02
    assert found["calls"] == kind
    assert found["measured"]["median_ms"] == pytest.approx(runtime.true(small, kind), rel=1e-6)
    assert found["other_calls"] == {each: pytest.approx(ratios[each]) for each in ratios if each != kind}


def test_work_that_takes_long_is_left_out_of_the_comparison(
    runtime: CachedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edakari.latency.timing.timed_call", lambda work: 1e3)
    settings = LatencySettings(runtime="formula", repeats=5, networks=4)
    report = edakari.prune(wide(), EXAMPLE, "latency<=70%", latency=settings).report
    assert report["latencies"]["latency"]["other_calls"] == {}


def test_what_has_no_caches_of_a_processor_is_refused() -> None:
    cold = RunSettings(calls="cold")
    provider = runtime_named("onnxruntime", RuntimeOptions(provider="cuda"))
    assert "calls" in dict(faults(provider, cold))
    assert "calls" not in dict(faults(provider, RunSettings()))
    assert "calls" not in dict(faults(runtime_named("onnxruntime"), cold))


def test_a_device_that_times_other_calls_than_asked_is_refused(tmp_path: Path) -> None:
    device = runtime_named("command", RuntimeOptions(command=command(), device_name="pi4"))
    networks = {"dense": wide()}
    assert measure(networks, EXAMPLE, device, repeats=1)["dense"].median_ms > 0
    with pytest.raises(MeasurementError, match="pi4 timed steady calls, but was asked for cold ones"):
        measure(networks, EXAMPLE, device, settings=RunSettings(calls="cold"), repeats=1)


def test_the_script_for_a_device_times_the_calls_that_it_is_asked_for(tmp_path: Path) -> None:
    from edakari.core.far_side.sessions import How
    from edakari.latency.remote.answers import each_answer
    from edakari.latency.remote.folder import Repeats, networks_request

    wanted = Repeats(1, 5, None, "stream")
    request = networks_request({"dense": nn.Linear(2, 2)}, torch.zeros(1, 2), How(), wanted, tmp_path)
    run = [sys.executable, "-I", str(tmp_path / "bench.py"), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env={})
    answers = list(each_answer(iter(done.stdout.splitlines(keepends=True)), request.names))
    assert {answer.calls for answer in answers} - {None} == {"stream"}
    assert len(next(answer.times["dense"] for answer in answers if answer.times)[0]) == 5
