"""`edakari measure` of a network by its name, and its calibration, in a runtime whose times are a formula."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edakari.cli import calibration as calibration_module
from edakari.cli.main import app
from edakari.cost import runtimes
from edakari.cost.measure import Timing
from edakari.testing.formula_runtime import FormulaRuntime


def call(*arguments: str):
    return CliRunner().invoke(app, ["measure", *arguments])


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A runtime that knows how long each network takes by the formula, as the sizes that it was cut to say."""
    runtime = FormulaRuntime()
    monkeypatch.setattr(runtimes, "RUNTIMES", {**runtimes.RUNTIMES, runtime.name: runtime})
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    drawn = {}

    def remembered(groups, count, *args):
        drawn["sizes"] = random_sizes(groups, count, *args)
        return drawn["sizes"]

    def timed(calls, warmup, repeats):
        graph = drawn["graph"]
        times = [1.2 * runtime.latency(graph, sizes) for sizes in drawn["sizes"]]
        return {
            name: Timing(time, time, drawn.get("spread", 0.0) * time, repeats)
            for name, time in zip(calls, times, strict=True)
        }

    def traced(model, example):
        drawn["graph"] = trace(model, example)
        return drawn["graph"]

    random_sizes, trace = calibration_module.random_sizes, calibration_module.trace
    monkeypatch.setattr(calibration_module, "random_sizes", remembered)
    monkeypatch.setattr(calibration_module, "time_callables", timed)
    monkeypatch.setattr(calibration_module, "trace", traced)
    return drawn


def test_a_network_by_its_name():
    found = call("edakari:fashion_cnn", "--runtime", "torch", "--repeats", "2", "--batch", "3", "--json")
    content = json.loads(found.stdout)
    assert content["batch"] == 3
    assert content["runtimes"]["torch"]["dense"]["repeats"] == 2
    assert "torch: " in call("edakari:fashion_cnn", "--runtime", "torch", "--repeats", "2").stdout


def test_calibrating_fills_the_table_and_says_how_good_it_is(fake, tmp_path):
    arguments = ("edakari:fashion_cnn", "--calibrate", "--runtime", "formula", "--networks", "8", "--repeats", "5")
    found = call(*arguments, "--json")
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)["runtimes"]["formula"]
    assert result["filled"] == result["points"] > 50
    assert len(result["networks"]) == 8
    assert result["fit"]["scale"] == pytest.approx(1.2, rel=0.05)
    assert result["fit"]["median_error"] < 0.02
    assert result["fit"]["rank_correlation"] > 0.95
    assert Path(result["table"]).parent == tmp_path / "cache" / "latency"
    assert "not in the table yet: about" in found.stderr

    again = call(*arguments)
    assert "0 of them not in the table" in again.stderr
    assert "error of the prediction" in again.stdout
    assert "noisy" not in again.stdout


def test_a_noisy_machine_is_told(fake):
    fake["spread"] = 0.3
    found = call("edakari:fashion_cnn", "--calibrate", "--runtime", "formula", "--networks", "4")
    assert "The machine is noisy" in found.stdout
    assert "30%" in found.stdout


def test_a_table_that_cannot_be_trusted_ends_in_one_line(fake, tmp_path):
    arguments = ("edakari:fashion_cnn", "--calibrate", "--runtime", "formula", "--networks", "4")
    assert call(*arguments).exit_code == 0
    path = next((tmp_path / "cache" / "latency").iterdir())
    path.write_text("{}")
    found = call(*arguments)
    assert found.exit_code == 1
    assert "cannot be trusted" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_an_unknown_runtime_gets_the_nearest():
    found = call("edakari:fashion_cnn", "--runtime", "onnx")
    assert found.exit_code == 1
    assert "onnxruntime" in found.stderr
