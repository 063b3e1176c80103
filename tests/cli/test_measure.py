"""`edakari measure` of a network by its name, and its calibration, in a runtime whose times are a formula."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edakari.cli.main import app
from edakari.latency import runtimes
from edakari.testing.formula_runtime import FormulaRuntime


def call(*arguments: str):
    return CliRunner().invoke(app, ["measure", *arguments])


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A runtime that takes a fifth longer for whole networks than its layers tell."""
    runtime = FormulaRuntime(factor=1.2)
    monkeypatch.setitem(runtimes.RUNTIMES._registered, runtime.name, lambda: runtime)
    monkeypatch.setattr("edakari.latency.timing.time", runtime)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    return runtime


def test_a_network_by_its_name():
    quick = ("edakari:fashion_cnn", "--runtime", "torch", "--repeats", "2", "--spread", "100")
    found = call(*quick, "--batch", "3", "--json")
    content = json.loads(found.stdout)
    assert content["batch"] == 3
    assert content["runtimes"]["torch"]["dense"]["repeats"] >= 2
    assert "torch: " in call(*quick).stdout


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


def test_a_noisy_machine_is_told_instead_of_a_figure(fake):
    arguments = ("edakari:fashion_cnn", "--runtime", "formula")
    assert "formula: " in call(*arguments).stdout
    fake.noise = 0.4
    found = call(*arguments)
    assert found.exit_code == 1
    assert "too noisy to measure" in found.stderr
    assert "formula: " not in found.stdout
    assert "ms (noisy)" in call(*arguments, "--spread", "10").stdout


def test_a_noisy_machine_is_told_when_calibrating(fake):
    fake.noise = 0.4
    found = call("edakari:fashion_cnn", "--calibrate", "--runtime", "formula", "--networks", "4")
    assert "The machine is noisy" in found.stdout
    assert re.search(r"differ by [234]\d%", found.stdout)


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
