"""Several latencies under one budget, in runtimes whose times are formulas: met, reported, resumed, and refused."""

from __future__ import annotations

import dataclasses as dc
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.core.budget import Budget
from edakari.core.space import limited
from edakari.criteria import Magnitude
from edakari.errors import BudgetError, RecipeError, SettingsError
from edakari.graph import trace
from edakari.latency import runtimes
from edakari.latency.layers import Layer
from edakari.pipeline import LatencySettings, Recipe, recipe_from
from edakari.pipeline import latency as loop_module
from edakari.pipeline.schema import recipe_schema
from edakari.report import render
from edakari.testing.formula_runtime import FormulaRuntime
from tests.pipeline.test_schema import fits

WIDE = """
import torch
from torch import nn


def wide(width: int = 96) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3),
    )
"""
TIMED = {"repeats": 5, "networks": 4}
"""Settings of every latency here."""


@dc.dataclass
class SteepRuntime(FormulaRuntime):
    """Another device: a layer takes longer for each of its output channels."""

    name: str = "steep"

    def time(self, layer: Layer, widths: tuple[int, ...]) -> float:
        more = 4e-4 * widths[-1] if layer.kind == "convolution" else 0.0
        return super().time(layer, widths) + more


Devices = Mapping[str, FormulaRuntime]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Devices:
    """Two devices on which a whole network takes longer than its layers, each by a factor of its own."""
    found = {"formula": FormulaRuntime(factor=1.3, constant=0.4), "steep": SteepRuntime(factor=0.9, constant=0.1)}
    for name, runtime in found.items():
        monkeypatch.setitem(runtimes.RUNTIMES._registered, name, lambda runtime=runtime: runtime)

    class Clock:
        def perf_counter_ns(self) -> int:
            return sum(each.now_ns for each in found.values())

    monkeypatch.setattr("edakari.latency.timing.time", Clock())
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    return found


@pytest.fixture
def recipe(content: dict[str, Any], tmp_path: Path) -> Callable[..., Recipe]:
    def make(**changes: Any) -> Recipe:
        (tmp_path / "wide.py").write_text(WIDE)
        return recipe_from(
            {
                **content,
                "model": {"name": f"{tmp_path}/wide.py:wide", "weights": "random"},
                "budget": "latency@pi<=70%, latency@cpu<=75%",
                "latency": {"pi": {"runtime": "formula", **TIMED}, "cpu": {"runtime": "steep", **TIMED}},
                "finetune": None,
                "measure": None,
                **changes,
            }
        )

    return make


def err(monkeypatch: pytest.MonkeyPatch, **factors: float) -> None:
    """Pruned networks take longer than predicted, by a factor of each latency."""
    of = loop_module.BudgetLoop.of

    def wrong(*args: Any) -> loop_module.BudgetLoop:
        found = of(*args)
        latencies = {
            name: dc.replace(each, cost=each.cost.scaled(1 / factors.get(name.partition("@")[2], 1.0)))
            for name, each in found.latencies.items()
        }
        return dc.replace(found, latencies=latencies)

    monkeypatch.setattr(loop_module.BudgetLoop, "of", wrong)


def true_latency(runtime: FormulaRuntime, model: torch.nn.Module) -> float:
    return runtime.latency(trace(model, torch.zeros(1, 1, 8, 8)), {})


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.15, 0.85)])
@pytest.mark.parametrize(
    ("budget", "binding"),
    [
        ("latency@pi<=70%, latency@cpu<=95%", "pi"),
        ("latency@pi<=95%, latency@cpu<=70%", "cpu"),
        ("latency@pi<=1.5ms, latency@cpu<=75%, params<=90%", None),
    ],
)
def test_the_finished_network_meets_every_latency(
    devices: Devices,
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    factors: tuple[float, float],
    budget: str,
    binding: str | None,
) -> None:
    err(monkeypatch, pi=factors[0], cpu=factors[1])
    asked = recipe(budget=budget)
    result = edakari.run(asked, tmp_path / "run")
    timed = result.report["latencies"]
    whole = edakari.build(asked.model)
    assert list(timed) == ["latency@pi", "latency@cpu"]
    for name, runtime in (("latency@pi", devices["formula"]), ("latency@cpu", devices["steep"])):
        term = Budget.parse(budget).term(name)
        assert term is not None
        limit = term.limit * (true_latency(runtime, whole) if term.relative else 1.0)
        assert timed[name]["limit_ms"] == pytest.approx(limit, rel=1e-6)
        assert timed[name]["measured"]["median_ms"] == pytest.approx(true_latency(runtime, result.model), rel=1e-6)
        assert timed[name]["measured"]["median_ms"] <= 1.02 * limit
        assert timed[name]["runtime"] == runtime.name
        if binding is not None:
            near = timed[name]["relative_error"] > -0.05  # as near as three groups in steps of 8 come
            assert near == name.endswith(binding)
    assert max(each["relative_error"] for each in timed.values()) > -0.05


def test_every_latency_is_named(devices: Devices, recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(json.dumps(recipe().content))
    asked = ["prune", str(tmp_path / "r.yaml"), "--output", str(tmp_path / "run"), "--trust"]
    checked = CliRunner().invoke(app, [*asked, "--check"])
    assert checked.exit_code == 0, checked.output
    for text in ("latency@pi<=70%: the run measures it in formula", "latency@cpu<=75%: the run measures it in steep"):
        assert text in " ".join(checked.stdout.split())
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0, found.output
    for name in ("latency@pi", "latency@cpu"):
        assert f"{name}: formula: " in found.stderr or f"{name}: steep: " in found.stderr
        assert re.search(rf"round 1, {name}: predicted .* ms, measured .* ms", found.stderr)
        assert re.search(rf"{name}, (formula|steep): at most .* measured", found.stdout)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    page = render(report)
    for name in ("latency@pi, formula", "latency@cpu, steep"):
        assert f'<th scope="row">{name}</th>' in page
        assert f"Rounds of the closed loop, {name}" in page
    timed = CliRunner().invoke(app, ["measure", str(tmp_path / "run"), "--latencies", "--trust", "--json"])
    assert timed.exit_code == 0, timed.output
    latencies = json.loads(timed.stdout)["latencies"]
    for name, each in report["latencies"].items():
        assert latencies[name]["pruned"]["median_ms"] == pytest.approx(each["measured"]["median_ms"], rel=1e-6)


def test_a_run_without_a_latency_cannot_time_it_again(content: dict[str, Any], tmp_path: Path) -> None:
    edakari.run(recipe_from({**content, "finetune": None, "measure": None}), tmp_path / "run")
    found = CliRunner().invoke(app, ["measure", str(tmp_path / "run"), "--latencies"])
    assert found.exit_code == 1
    assert "has no latency" in found.output


@pytest.mark.parametrize("stopped", [2, 3, 4])
def test_an_interrupted_run_measures_nothing_twice(
    devices: Devices, recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    err(monkeypatch, pi=1.15, cpu=1.1)
    whole = edakari.run(recipe(), tmp_path / "whole")
    apply, cuts = loop_module.apply, []

    def counted(model: Any, plan: Any, graph: Any = None) -> Any:
        cuts.append(json.dumps(plan.sizes()))
        if len(cuts) == stopped:
            raise KeyboardInterrupt
        return apply(model, plan, graph)

    monkeypatch.setattr(loop_module, "apply", counted)
    with pytest.raises(KeyboardInterrupt):
        edakari.run(recipe(), tmp_path / "parts")
    result = edakari.run(recipe(), tmp_path / "parts")
    assert result.plan.sizes() == whole.plan.sizes()
    assert len(cuts) == 1 + sum(len(each["rounds"]) for each in whole.report["latencies"].values())
    assert result.report["latencies"]["latency@pi"]["rounds"] == whole.report["latencies"]["latency@pi"]["rounds"]


def test_two_names_may_share_a_table(devices: Devices, recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    latency = {name: {"runtime": "formula", **TIMED} for name in ("pi", "cpu")}
    said: list[str] = []
    result = edakari.run(
        recipe(latency=latency),
        tmp_path / "run",
        notify=lambda stage, state, found: said.append(found["stage"]) if state == "log" else None,
    )
    assert "latency@cpu is measured like latency@pi, and shares its table" in said
    assert result.results.latency.planned["latency@pi"].details["filled"] > 0
    assert result.results.latency.planned["latency@cpu"].details["filled"] == 0
    assert len(list((tmp_path / "cache" / "latency").iterdir())) == 1


def test_a_call_takes_settings_by_name(devices: Devices) -> None:
    model, example = toy(), torch.zeros(1, 1, 8, 8)
    latency: Any = {"pi": {"runtime": "formula", **TIMED}, "cpu": LatencySettings(runtime="steep", **TIMED)}
    result = edakari.prune(model, example, "latency@cpu<=80%, latency@pi<=70%", latency=latency)
    timed = result.report["latencies"]
    assert list(timed) == ["latency@cpu", "latency@pi"]
    assert all(each["relative_error"] <= 0.02 for each in timed.values())
    with pytest.raises(SettingsError, match=r"latency\.pi has no setting 'runtme'; did you mean 'runtime'"):
        edakari.prune(model, example, "latency@pi<=70%", latency={"pi": {"runtme": "formula"}})  # type: ignore[typeddict-item]
    with pytest.raises(SettingsError, match=r"latency\.cpu: has settings, but the budget has no term latency@cpu"):
        edakari.prune(model, example, "latency@pi<=70%", latency=latency)


def test_costs_of_several_devices_allocate(devices: Devices) -> None:
    model, example = toy(), torch.zeros(1, 1, 8, 8)
    graph = trace(model, example)
    costs = [
        edakari.measure_latency(model, example, runtime, networks=4).named(f"latency@{name}")
        for name, runtime in (("pi", "formula"), ("cpu", "steep"))
    ]
    scores, groups = Magnitude().score(model, graph, (), None), limited(graph.groups, round_to=8)
    plan = edakari.allocate(graph, scores, "latency@pi<=80%, latency@cpu<=70%", groups=groups, costs=costs)
    assert all(
        cost.total(plan.sizes()) <= fraction * cost.total({}) for cost, fraction in zip(costs, (0.8, 0.7), strict=True)
    )
    with pytest.raises(BudgetError, match=r"measure_latency\(model, example\)\.named\('latency@cpu'\)"):
        edakari.allocate(graph, scores, "latency@pi<=80%, latency@cpu<=70%", groups=groups, costs=costs[:1])


def toy() -> torch.nn.Module:
    space: dict[str, Any] = {}
    exec(WIDE, space)
    model: torch.nn.Module = space["wide"]()
    return model


PI = {"runtime": "onnxruntime"}


@pytest.mark.parametrize(
    ("budget", "latency", "parts"),
    [
        ("latency@pi<=70%", None, ["latency: the budget names latency@pi", "{pi: {runtime: ...}}"]),
        ("latency@pi<=70%", PI, ["latency: the budget names latency@pi"]),
        ("latency<=70%", {"pi": PI}, ["latency: the budget limits latency, which has no settings", "latency@pi"]),
        ("latency@pi4<=70%", {"pi": PI}, ["latency.pi4: ", "did you mean 'latency@pi'", "latency.pi: has settings"]),
        ("macs<=70%", {"pi": PI}, ["latency.pi: has settings, but the budget has no term latency@pi"]),
        ("latency@pi<=70%, latency@pi<=60%", {"pi": PI}, ["budget: ", "'latency@pi' twice"]),
        ("latency@pi<=70%, latency<=60%", {"pi": PI}, ["budget: ", "without a name beside named ones"]),
        ("macs@pi<=70%", None, ["budget: ", "only a latency"]),
        ("latency@pi<=70%", {"pi": {"runtme": "torch"}}, ["latency.pi.runtme: unknown key; did you mean 'runtime'"]),
        ("latency@pi<=70%", {"pi": {"runtime": "onnx"}}, ["latency.pi.runtime", "'onnxruntime'"]),
        ("latency@pi<=70%", {"pi": {"networks": 2}}, ["latency.pi.networks", "4", "2"]),
    ],
)
def test_names_that_do_not_match_are_told(
    recipe: Callable[..., Recipe], budget: str, latency: Any, parts: list[str]
) -> None:
    with pytest.raises(RecipeError) as error:
        recipe(budget=budget, latency=latency)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_settings_that_cannot_run_here_are_told_by_name(
    devices: Devices, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    latency = {"pi": {"runtime": "command", "device_name": "pi4"}, "cpu": {"runtime": "steep", "provider": "cuda"}}
    with pytest.raises(RecipeError) as error:
        edakari.run(recipe(latency=latency), tmp_path / "run")
    assert "latency.pi." in str(error.value)
    assert "latency.cpu.provider" in str(error.value)


@pytest.mark.parametrize(
    ("latency", "fine"),
    [
        ({"runtime": "torch"}, True),
        ({"pi": {"runtime": "torch", "threads": 2}, "cpu": {}}, True),
        ({"runtme": "torch"}, False),
        ({"pi": {"runtme": "torch"}}, False),
        ({"pi": "torch"}, False),
    ],
)
def test_the_schema_knows_both_forms(latency: Any, fine: bool) -> None:
    schema = recipe_schema()
    assert fits(latency, schema["properties"]["latency"], schema) == fine
