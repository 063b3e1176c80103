"""Widths and tokens under one budget: the costs are those of the cut network, and a latency is met in few rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import edakari
from edakari.cost import dense
from edakari.errors import EdakariError
from edakari.latency import runtimes
from edakari.pipeline.settings import LatencySettings
from edakari.surgery.differences import differences
from edakari.testing import toy_cnn, toy_vit
from edakari.testing.formula_runtime import FormulaRuntime
from edakari.testing.toys import ToyTask

SHARED = {"name": "taylor", "tokens": {"selector": "tome", "share": 0.5}}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FormulaRuntime:
    runtime = FormulaRuntime(factor=1.3, constant=0.1)
    monkeypatch.setitem(runtimes.RUNTIMES._registered, runtime.name, lambda: runtime)
    monkeypatch.setattr("edakari.latency.timing.time", runtime)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    return runtime


def test_macs_are_met_by_widths_and_tokens_together() -> None:
    """The cut network equals its masked twin, and costs no more than the budget and hardly less."""
    model, task = toy_vit(), ToyTask()
    found = edakari.prune(model, task, "macs<=70%", {**SHARED, "tokens": {"share": 0.3}}, recalibrate=0)
    kinds = {type(edit).__name__ for edit in found.plan.edits}
    assert kinds == {"KeepChannels", "KeepTokens"}
    x = task.example()
    graph = edakari.trace(model, x)
    assert 0.66 < dense(edakari.trace(found.model, x))["macs"] / dense(graph)["macs"] <= 0.7
    images = [torch.randn(4, *x.shape[1:], dtype=torch.float64)]
    assert differences(model.double(), found.plan, images, graph).worst < 1e-9


def test_a_latency_is_met(fake: FormulaRuntime, tmp_path: Path) -> None:
    timed = LatencySettings(runtime="formula", networks=4)
    model, task = toy_vit(), ToyTask()
    found = edakari.prune(
        model,
        task,
        "latency<=85%",
        SHARED,
        recalibrate=0,
        latency=timed,
        groups={"round_to": 4},
        output=tmp_path / "run",
    )
    assert {type(edit).__name__ for edit in found.plan.edits} == {"KeepChannels", "KeepTokens"}
    graphs = [edakari.trace(network, task.example()) for network in (model, found.model)]
    before, after = (fake.latency(graph, {}) for graph in graphs)
    assert after / before <= 0.85 * 1.02
    again = edakari.load(tmp_path / "run", toy_vit())
    x = torch.randn(2, *task.example().shape[1:])
    assert torch.equal(again.eval()(x), found.model.eval()(x))


def test_what_cannot_be_shared_is_one_error() -> None:
    with pytest.raises(EdakariError, match="has no tokens"):
        edakari.prune(toy_cnn(), ToyTask(), "macs<=50%", SHARED)
    with pytest.raises(EdakariError, match="must be 1 with tokens"):
        edakari.prune(toy_vit(), ToyTask(), "macs<=50%", {**SHARED, "iterations": 2})
    with pytest.raises(EdakariError, match="depends on the number of tokens"):
        edakari.prune(toy_vit(), ToyTask(), "params<=50%", SHARED, recalibrate=0)
