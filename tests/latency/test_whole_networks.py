"""Latencies that are met by measuring whole networks alone, and the closed loop on machines of any kind."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edakari
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Cost
from edakari.core.space import Group, Sizes
from edakari.cost import macs
from edakari.errors import InfeasibleBudget, MeasurementError
from edakari.latency import runtimes
from edakari.latency.budget_loop import MISS, LoopSettings, affine
from edakari.latency.closed_loop import ClosedLoop, TimedLatency
from edakari.latency.target import LatencyTarget, TimedPair
from edakari.latency.timing import LayerRuntime, RunSettings, Timing
from edakari.latency.whole import SurrogateLatency
from edakari.pipeline import recipe_from
from edakari.testing import check_cost, toy_cnn
from edakari.testing.formula_runtime import FormulaRuntime

WIDTH = 1000


@dc.dataclass(frozen=True)
class Width:
    """A cost that is the width of the only group."""

    name: str = "macs"
    unit: str = "MAC"

    def total(self, sizes: Sizes) -> float:
        return float(sizes.get("group", WIDTH))

    def curve(self, group: Group, sizes: Sizes) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.arange(group.size + 1, dtype=np.float64)


def timing(ms: float, ratio: float = 1.0) -> Timing:
    return Timing(ms, ms, 0.0, 10, ratio)


def widest(limit: float) -> Callable[[Sequence[Cost]], Plan]:
    """The largest width within a limit."""

    def solve(costs: Sequence[Cost]) -> Plan:
        (cost,) = costs
        most = max((size for size in range(WIDTH + 1) if cost.total({"group": size}) <= limit), default=None)
        if not most:
            raise InfeasibleBudget("nothing is narrow enough", {})
        return Plan((KeepChannels("group", tuple(range(most))),), "", {})

    return solve


SHAPES: Mapping[str, Callable[[float], float]] = {
    "as predicted": lambda x: x,
    "a constant besides": lambda x: 0.5 + 0.5 * x,
    "nearly a constant": lambda x: 0.9 + 0.1 * x,
    "quicker at first": lambda x: x**3,
    "slower at first": lambda x: x**0.4,
    "steps": lambda x: 0.2 + 0.8 * np.ceil(x * 40) / 40,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fraction", [0.97, 0.93, 0.6, 0.35])
def test_any_machine_that_is_slower_for_wider_networks_is_met(shape: str, fraction: float) -> None:
    """The loop against the widest network within the limit, which is known for each of these machines."""
    times = [10.0 * SHAPES[shape](size / WIDTH) for size in range(WIDTH + 1)]
    limit = fraction * times[-1]
    if limit < times[1]:
        pytest.skip("no network is so quick")

    def measure(plan: Plan) -> TimedPair:
        ms = times[plan.sizes()["group"]]
        return TimedPair(timing(times[-1]), timing(ms, ms / times[-1]))

    latency = SurrogateLatency(Width()).corrected({}, times[-1])
    target = LatencyTarget(limit, (times[-1],), relative=True)
    timed = TimedLatency(latency, target, measure, LoopSettings(12, affine))
    plan, rounds = ClosedLoop([timed], lambda number, name, found: None).run(widest(limit), (latency,), None)
    best = max(ms for ms in times if ms <= limit * (1 + MISS))
    found = times[plan.sizes()["group"]]
    assert found <= limit * (1 + MISS)
    assert abs(found / limit - 1) <= max(MISS, abs(best / limit - 1) + 0.025)
    assert len(rounds["latency"]) <= 8


@dc.dataclass
class WholeRuntime:
    """A runtime of a user's own that only times whole networks."""

    timer: FormulaRuntime
    name: str = "device"

    def versions(self) -> Mapping[str, str]:
        return {"device": "1"}

    def check(self, settings: RunSettings) -> None:
        pass

    def prepare(self, model: nn.Module, example: Any, settings: RunSettings) -> Callable[[], None]:
        return self.timer.prepare(model, example, settings)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WholeRuntime:
    runtime = WholeRuntime(FormulaRuntime(factor=1.3, constant=1.0))
    monkeypatch.setitem(runtimes.RUNTIMES._registered, runtime.name, lambda: runtime)
    monkeypatch.setattr("edakari.latency.timing.time", runtime.timer)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    assert not isinstance(runtime, LayerRuntime)
    return runtime


NETWORKS = """
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 3),
    )


def vit() -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=1, in_chans=1, embed_dim=32, depth=3, num_heads=4, num_classes=3
    )
"""


@pytest.mark.parametrize(
    ("network", "method", "budget"), [("wide", "magnitude", "latency<=75%"), ("vit", "evit", "latency<=93%")]
)
def test_a_runtime_without_a_clock_meets_a_budget(
    network: str, method: str, budget: str, device: WholeRuntime, content: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "networks.py").write_text(NETWORKS)
    changes = {
        "model": {"name": f"{tmp_path}/networks.py:{network}", "weights": "random"},
        "method": method,
        "budget": budget,
        "latency": {"runtime": "device", "repeats": 5},
        "groups": {"round_to": 1},
        "finetune": None,
        "measure": None,
    }
    result = edakari.run(recipe_from({**content, **changes}), tmp_path / "run")
    timed = result.report["latencies"]["latency"]
    assert -0.03 <= timed["relative_error"] <= MISS
    assert timed["fit"] is None
    assert len(timed["rounds"]) <= 8
    assert "nothing was predicted" in (tmp_path / "run" / "report.html").read_text()
    assert device.timer.opened == []


def test_what_needs_times_of_layers_says_so(device: WholeRuntime) -> None:
    with pytest.raises(MeasurementError, match=r"'device' times whole networks only.*latency budget"):
        edakari.measure_latency(toy_cnn(), torch.zeros(1, 3, 16, 16), "device")


def test_a_surrogate_is_a_cost() -> None:
    graph = edakari.trace(toy_cnn(), torch.zeros(1, 3, 16, 16))
    check_cost(SurrogateLatency(macs(graph), 1e-6), graph.groups)
