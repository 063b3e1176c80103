"""A budget in milliseconds that the finished network meets, in a runtime whose times are a formula."""

from __future__ import annotations

import dataclasses as dc
import json
import re
from pathlib import Path

import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.core.method import method_named
from edakari.core.space import limited
from edakari.criteria import Magnitude
from edakari.errors import BudgetError, InfeasibleBudget, MeasurementError, RecipeError
from edakari.graph import trace
from edakari.latency import budget_loop as rounds_module
from edakari.latency import network_key, runtimes
from edakari.pipeline import latency as loop_module
from edakari.pipeline import recipe_from
from edakari.report import render
from edakari.testing import toy_cnn
from edakari.testing.formula_runtime import FormulaRuntime

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


@pytest.fixture
def fake(monkeypatch, tmp_path) -> FormulaRuntime:
    """A runtime in which a whole network takes longer than the sum of its layers, by a factor and a constant."""
    runtime = FormulaRuntime(factor=1.3, constant=0.4)
    monkeypatch.setitem(runtimes.RUNTIMES._registered, runtime.name, lambda: runtime)
    monkeypatch.setattr("edakari.latency.timing.time", runtime)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    return runtime


@pytest.fixture
def recipe(content, tmp_path):
    """A recipe for a network wide enough that sizes in steps of 8 come near any latency."""

    def make(**changes):
        (tmp_path / "wide.py").write_text(WIDE)
        return recipe_from(
            {
                **content,
                "model": {"name": f"{tmp_path}/wide.py:wide", "weights": "random"},
                "budget": "latency<=70%",
                "latency": {"runtime": "formula", "repeats": 5, "networks": 4},
                "finetune": None,
                "measure": None,
                **changes,
            }
        )

    return make


def true_latency(runtime: FormulaRuntime, model, example=None) -> float:
    return runtime.latency(trace(model, torch.zeros(1, 1, 8, 8) if example is None else example), {})


def drift(runtime: FormulaRuntime, monkeypatch, factor: float) -> None:
    """Between the fit and the pruning, the machine becomes slower."""
    of = loop_module.BudgetLoop.of

    def later(*args):
        runtime.factor *= factor
        runtime.constant *= factor
        return of(*args)

    monkeypatch.setattr(loop_module.BudgetLoop, "of", later)


def err(monkeypatch, factor: float) -> None:
    """Pruned networks take longer than predicted."""
    of = loop_module.BudgetLoop.of

    def wrong(*args):
        found = of(*args)
        latencies = {n: dc.replace(each, cost=each.cost.scaled(1 / factor)) for n, each in found.latencies.items()}
        return dc.replace(found, latencies=latencies)

    monkeypatch.setattr(loop_module.BudgetLoop, "of", wrong)


@pytest.mark.parametrize("budget", ["latency<=70%", "latency<=1.5ms", "latency<=70%, params<=90%"])
def test_the_finished_network_meets_its_latency(fake, recipe, tmp_path, budget):
    result = edakari.run(recipe(budget=budget), tmp_path / "run")
    timed = result.report["latencies"]["latency"]
    dense = timed["dense"]["median_ms"]
    assert timed["limit_ms"] == pytest.approx(1.5 if budget.endswith("ms") else 0.7 * dense)
    assert timed["measured"]["median_ms"] == pytest.approx(true_latency(fake, result.model), rel=1e-6)
    assert -0.05 < timed["measured"]["median_ms"] / timed["limit_ms"] - 1 <= 0.02
    assert timed["predicted_ms"] == pytest.approx(timed["measured"]["median_ms"], rel=0.03)
    assert result.report["recipe"]["groups"]["round_to"] == 8
    assert all(size % 8 == 0 for size in result.plan.sizes().values())


@pytest.mark.parametrize("factor", [1.15, 0.85])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_prediction_that_errs_is_corrected(fake, recipe, tmp_path, monkeypatch, factor, steps):
    err(monkeypatch, factor)
    changed = recipe(budget="latency<=1.6ms", method={"name": "magnitude", "iterations": steps})
    result = edakari.run(changed, tmp_path / "run")
    rounds = json.loads((tmp_path / "run" / "stages" / "prune.json").read_text())["latencies"]["latency"]["rounds"]
    assert len(rounds) > 1
    assert abs(rounds[0]["relative_error"]) > 0.05
    assert (rounds[0]["factor"], rounds[1]["factor"] > 1) == (1.0, factor > 1)
    found = true_latency(fake, result.model)
    assert found / 1.6 - 1 <= 0.02
    assert abs(found / 1.6 - 1) < 0.6 * abs(rounds[0]["relative_error"])  # as near as three groups in steps of 8 come
    assert result.report["latencies"]["latency"]["relative_error"] == pytest.approx(found / 1.6 - 1, abs=1e-6)


def test_how_fast_the_machine_is_meanwhile_does_not_count_for_a_share(fake, recipe, tmp_path, monkeypatch):
    drift(fake, monkeypatch, 1.5)
    result = edakari.run(recipe(budget="latency<=70%"), tmp_path / "run")
    timed = result.report["latencies"]["latency"]
    whole, found = true_latency(fake, edakari.build(result.report["model"])), true_latency(fake, result.model)
    assert timed["dense"]["median_ms"] == pytest.approx(whole / 1.5)
    assert timed["measured"]["median_ms"] == pytest.approx(found / 1.5)
    assert -0.05 < found / 1.5 / timed["limit_ms"] - 1 <= 0.02


@pytest.mark.parametrize("factor", [1.02, 0.8])
def test_milliseconds_are_met_at_the_speed_that_the_machine_mostly_had(fake, recipe, tmp_path, monkeypatch, factor):
    drift(fake, monkeypatch, factor)
    result = edakari.run(recipe(budget="latency<=1.6ms"), tmp_path / "run")
    timed = result.report["latencies"]["latency"]
    whole, found = true_latency(fake, edakari.build(result.report["model"])), true_latency(fake, result.model)
    assert timed["dense"]["median_ms"] == pytest.approx(whole)
    assert timed["measured"]["median_ms"] == pytest.approx(found)
    assert -0.05 < found / 1.6 - 1 <= 0.02


def test_a_method_that_does_not_settle_is_measured_all_the_same(fake, recipe, tmp_path, monkeypatch):
    cls = type(method_named("magnitude")())
    honest = cls.prune
    monkeypatch.setattr(
        cls, "prune", lambda self, job: honest(self, dc.replace(job, loop=lambda solve, *rest: solve(job.costs)))
    )
    timed = edakari.run(recipe(), tmp_path / "run").report["latencies"]["latency"]
    assert len(timed["rounds"]) >= 1
    err(monkeypatch, 1.3)
    with pytest.raises(MeasurementError, match=r"above the budget of 1\.6 ms"):
        edakari.run(recipe(budget="latency<=1.6ms"), tmp_path / "other")


def test_layers_can_be_left_out(fake, recipe, tmp_path):
    latency = {"runtime": "formula", "repeats": 5, "layers": False}
    timed = edakari.run(recipe(latency=latency, groups={"round_to": 1}), tmp_path / "run").report["latencies"][
        "latency"
    ]
    assert fake.opened == []
    assert timed["fit"] is None
    assert -0.03 < timed["relative_error"] <= 0.02


def test_a_latency_that_cannot_be_reached_names_the_least(fake, recipe, tmp_path):
    with pytest.raises(InfeasibleBudget, match=r"latency .* of 0\.001 ms") as caught:
        edakari.run(recipe(budget="latency<=1us"), tmp_path / "run")
    assert caught.value.least["latency"] > 0.4
    assert not (tmp_path / "run").exists()


def test_a_noisy_machine_gives_no_number(fake, recipe, tmp_path):
    fake.noise = 0.5
    with pytest.raises(MeasurementError, match=r"too noisy to measure: .* between the quartiles"):
        edakari.run(recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fake.noise = 0.0
    assert edakari.run(recipe(latency={"runtime": "formula", "networks": 4, "spread": 1.0}), tmp_path / "run").fresh


def test_a_table_of_other_hardware_is_refused(fake, recipe, tmp_path):
    edakari.run(recipe(), tmp_path / "run")
    (path,) = (tmp_path / "cache" / "latency").iterdir()
    path.write_text(re.sub(r'"processor": "[^"]*"', '"processor": "another"', path.read_text()))
    with pytest.raises(MeasurementError, match="made with hardware"):
        edakari.run(recipe(), tmp_path / "other")


def test_a_network_that_the_runtime_does_not_run_ends_before_any_layer_is_timed(fake, recipe, tmp_path, monkeypatch):
    def prepare(self, model, example, settings):
        raise RuntimeError("no kernel for Frobnicate")

    monkeypatch.setattr(FormulaRuntime, "prepare", prepare)
    with pytest.raises(MeasurementError, match="no kernel for Frobnicate"):
        edakari.run(recipe(), tmp_path / "run")
    assert fake.opened == []


@pytest.mark.parametrize("index", ["table", "round"])
def test_an_interrupted_run_goes_on_and_measures_nothing_twice(fake, recipe, tmp_path, monkeypatch, index):
    err(monkeypatch, 1.15)
    whole = edakari.run(recipe(budget="latency<=1.6ms"), tmp_path / "whole")
    again = recipe(budget="latency<=1.6ms", latency={"runtime": "formula", "networks": 4, "cache": str(tmp_path / "b")})
    apply, timed = loop_module.apply, []

    def interrupted(*args):
        raise KeyboardInterrupt

    def counted(model, plan, graph=None):
        timed.append(json.dumps(plan.sizes()))
        if len(timed) == 2 and index == "round":
            raise KeyboardInterrupt
        return apply(model, plan, graph)

    monkeypatch.setattr(loop_module, "apply", counted)
    with monkeypatch.context() as patched:
        if index == "table":
            patched.setattr(loop_module, "calibrate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            edakari.run(again, tmp_path / "parts")
    points = len(fake.opened)
    result = edakari.run(again, tmp_path / "parts")
    assert len(set(fake.opened[points:])) == 0
    assert len(timed) - len(set(timed)) == (1 if index == "round" else 0)
    assert result.plan.sizes() == whole.plan.sizes()


def test_the_report_shows_dense_predicted_and_measured(fake, recipe, tmp_path, monkeypatch):
    err(monkeypatch, 1.15)
    report = edakari.run(recipe(budget="latency<=1.6ms"), tmp_path / "run").report
    page, timed = render(report), report["latencies"]["latency"]
    text = re.sub(r"<[^>]*>", " ", page)
    for figure in (timed["dense"]["median_ms"], timed["predicted_ms"], timed["measured"]["median_ms"]):
        assert f"{figure:.3g} ±" in text
    table = page.partition("Rounds of the closed loop")[2].partition("</table>")[0]
    assert table.count("<tr><td>") == len(timed["rounds"]) > 1
    assert (
        json.loads((tmp_path / "run" / "report.json").read_text())["latencies"]["latency"]["rounds"] == timed["rounds"]
    )


def test_without_a_latency_there_is_none(content, tmp_path):
    report = edakari.run(recipe_from({**content, "finetune": None, "measure": None}), tmp_path / "run").report
    assert report["latencies"] == {}
    assert "The budget's latency" not in render(report)


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"runtme": "torch"}, ["latency.runtme", "'runtime'"]),
        ({"runtime": "onnx"}, ["latency.runtime", "'onnxruntime'"]),
        ({"networks": 2}, ["latency.networks", "4", "2"]),
        ({"spread": 0}, ["latency.spread", "0"]),
        ({"precision": "int4"}, ["latency.precision", "'int4'"]),
    ],
)
def test_a_wrong_section_is_told(recipe, section, parts):
    with pytest.raises(RecipeError) as error:
        recipe(latency=section)
    assert all(part in str(error.value) for part in parts)


def test_the_command_line_says_what_it_does(fake, recipe, tmp_path):
    (tmp_path / "r.yaml").write_text(json.dumps(recipe().content))
    found = CliRunner().invoke(app, ["prune", str(tmp_path / "r.yaml"), "--output", str(tmp_path / "run"), "--trust"])
    assert found.exit_code == 0, found.output
    assert "not in the table yet: about" in found.stderr
    assert re.search(r"round 1: predicted .* ms, measured .* ms", found.stderr)
    assert re.search(r"Latency of the budget, formula: at most .* dense .* predicted .* measured", found.stdout)


def test_a_latency_at_the_root(fake, tmp_path):
    model, example, said = toy_cnn(), torch.zeros(1, 3, 16, 16), []
    cost = edakari.measure_latency(model, example, "formula", networks=4, tell=said.append)
    assert cost.total({}) == pytest.approx(true_latency(fake, model, example), rel=0.03)
    assert "about" in said[0]
    points = len(fake.opened)
    edakari.measure_latency(model, example, "formula", networks=4)
    assert len(fake.opened) == points
    graph = trace(model, example)
    scores = Magnitude().score(model, graph, (), None)
    plan = edakari.allocate(graph, scores, "latency<=80%", groups=limited(graph.groups, round_to=8), costs=[cost])
    assert plan.sizes()
    assert true_latency(fake, edakari.apply(model, plan), example) < 0.85 * cost.total({})
    with pytest.raises(BudgetError, match=r"edakari\.measure_latency"):
        edakari.allocate(graph, scores, "latency<=80%")


def test_rounds_end_where_sizes_do_not_follow(fake, recipe, tmp_path):
    """Where another term decides, a latency far below its limit is no reason to go on."""
    rounds = edakari.run(recipe(budget="latency<=95%, macs<=40%"), tmp_path / "run").report["latencies"]["latency"][
        "rounds"
    ]
    assert len(rounds) == 1
    assert rounds[0]["relative_error"] < -rounds_module.MISS


def test_the_fit_of_a_run_before_is_kept(fake, recipe, tmp_path):
    edakari.run(recipe(), tmp_path / "run")
    second = recipe(seed=1)
    edakari.run(second, tmp_path / "other")
    found = json.loads((tmp_path / "other" / "stages" / "latency.json").read_text())
    found = found["planned"]["latency"]
    assert found["details"]["filled"] == 0
    assert "networks" not in found["details"]
    graph = trace(edakari.build(second.model), torch.zeros(1, 1, 8, 8))
    (path,) = (tmp_path / "cache" / "latency").iterdir()
    assert json.loads(path.read_text())["fits"][network_key(graph)] == found["fit"]
    assert Path(found["table"]) == path


def test_the_exported_network_takes_the_batch_whose_latency_was_met(fake, recipe, tmp_path):
    latency = {"runtime": "formula", "repeats": 5, "networks": 4, "batch": 3}
    edakari.run(recipe(latency=latency, export=["onnx"]), tmp_path / "run")
    session = onnxruntime.InferenceSession(tmp_path / "run" / "export" / "pruned.onnx")
    assert session.get_inputs()[0].shape == [3, 1, 8, 8]


def test_runs_that_share_results_measure_what_their_latencies_have_in_common_once(fake, recipe, tmp_path, monkeypatch):
    shared, measured, calls = tmp_path / "shared", loop_module._measured_here, []
    monkeypatch.setattr(
        loop_module, "_measured_here", lambda run: calls.append(str(run.settings.budget)) or measured(run)
    )
    latencies = [
        edakari.run(recipe(**changes), tmp_path / name, shared=shared).report["latencies"]["latency"]
        for name, changes in {
            "one": {},
            "other budget, method and seed": {"budget": "latency<=50%", "method": "random", "seed": 1},
            "other latency": {"budget": "latency<=50%", "latency": {"runtime": "formula", "repeats": 4, "networks": 4}},
        }.items()
    ]
    assert calls == ["latency<=70%", "latency<=50%"]
    first, second, _ = latencies
    assert second["limit_ms"] == pytest.approx(first["limit_ms"] * 5 / 7)
    assert second["measured"]["median_ms"] <= second["limit_ms"] * 1.02
