"""Widths and tokens under one budget: the costs are those of the cut network, and a latency is met."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.cost import dense
from edakari.errors import EdakariError, InfeasibleBudget
from edakari.latency import runtimes
from edakari.pipeline.settings import LatencySettings
from edakari.surgery.differences import differences
from edakari.testing import toy_cnn, toy_vit
from edakari.testing.formula_runtime import FormulaRuntime
from edakari.testing.toys import ToyTask

HALF = {"name": "taylor", "tokens": {"fractions": [0.5]}}
BOTH = {"KeepChannels", "KeepTokens"}


def wide_vit() -> nn.Module:
    """A transformer so wide that choosing tokens takes less time than it saves."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(img_size=16, patch_size=2, embed_dim=64, depth=3, num_heads=4, num_classes=4).eval()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FormulaRuntime:
    runtime = FormulaRuntime(factor=1.3, constant=0.1)
    monkeypatch.setitem(runtimes.RUNTIMES._registered, runtime.name, lambda: runtime)
    monkeypatch.setattr("edakari.latency.timing.time", runtime)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    return runtime


@pytest.mark.parametrize("groups", [{}, {"widths": {"blocks.0.mlp.fc1": "50%"}}], ids=["free", "one width fixed"])
def test_macs_are_met_by_widths_and_tokens_together(groups: Mapping[str, Any]) -> None:
    """The cut network equals its masked twin, and costs no more than the budget and hardly less."""
    model, task = toy_vit(), ToyTask()
    found = edakari.prune(model, task, "macs<=70%", HALF, recalibrate=0, groups=groups)
    assert {type(edit).__name__ for edit in found.plan.edits} == BOTH
    x = task.example()
    graph = edakari.trace(model, x)
    assert 0.66 < dense(edakari.trace(found.model, x))["macs"] / dense(graph)["macs"] <= 0.7
    images = [torch.randn(4, *x.shape[1:], dtype=torch.float64)]
    assert differences(model.double(), found.plan, images, graph).worst < 1e-9


def test_branches_are_dropped_under_the_same_budget() -> None:
    """The cut network equals its masked twin, and spends the budget on the branches that are left."""
    model, task = wide_vit(), ToyTask()
    method = {"name": "taylor", "tokens": {"fractions": [0.4], "branches": [2]}}
    found = edakari.prune(model, task, "macs<=50%", method, recalibrate=0)
    assert {type(edit).__name__ for edit in found.plan.edits} == {*BOTH, "DropBranch"}
    x = task.example()
    graph = edakari.trace(model, x)
    assert 0.46 < dense(edakari.trace(found.model, x))["macs"] / dense(graph)["macs"] <= 0.5
    images = [torch.randn(4, *x.shape[1:], dtype=torch.float64)]
    assert differences(model.double(), found.plan, images, graph).worst < 1e-9


def test_the_split_with_the_lowest_loss_is_taken() -> None:
    found = edakari.prune(toy_vit(), ToyTask(), "macs<=70%", {"name": "taylor", "tokens": {}}, recalibrate=0)
    assert found.results.prune is not None
    *tried, taken = found.results.prune.log
    losses = {str(each["stage"]): float(each["loss"]) for each in tried}
    assert len(losses) > 1
    assert min(losses, key=lambda stage: losses[stage]).startswith(f"{taken['fraction by tokens']:.0%} ")


@pytest.mark.parametrize(
    ("selector", "timed", "groups"),
    [
        ("evit", {}, {"widths": {"blocks.0.mlp.fc1": 64}}),
        ("tome", {"layers": False}, {}),  # only whole networks are timed
    ],
)
def test_a_latency_is_met(
    fake: FormulaRuntime, tmp_path: Path, selector: str, timed: dict[str, Any], groups: Mapping[str, Any]
) -> None:
    model, task = wide_vit(), ToyTask()
    method = {"name": "taylor", "tokens": {"selector": selector, "fractions": [0.5]}}
    settings = LatencySettings(runtime="formula", networks=4, **timed)
    found = edakari.prune(
        model,
        task,
        "latency<=60%",
        method,
        recalibrate=0,
        latency=settings,
        groups={"round_to": 8, **groups},
        output=tmp_path / "run",
    )
    assert {type(edit).__name__ for edit in found.plan.edits} == BOTH
    before, after = (fake.latency(edakari.trace(each, task.example()), {}) for each in (model, found.model))
    assert 0.55 < after / before <= 0.6 * 1.02
    again = edakari.load(tmp_path / "run", wide_vit())
    x = torch.randn(2, *task.example().shape[1:])
    assert torch.equal(again.eval()(x), found.model.eval()(x))


@pytest.mark.slow
def test_tokens_that_cost_more_than_they_save_are_refused(fake: FormulaRuntime) -> None:
    settings = LatencySettings(runtime="formula", networks=4)
    with pytest.raises(InfeasibleBudget, match="choosing them costs as much"):
        edakari.prune(toy_vit(), ToyTask(), "latency<=85%", HALF, recalibrate=0, latency=settings)


@pytest.mark.parametrize(
    ("network", "budget", "more", "error"),
    [
        (toy_cnn, "macs<=50%", {}, "has no tokens"),
        (toy_vit, "macs<=50%", {"iterations": 2}, "must be 1 with tokens"),
        (toy_vit, "params<=50%", {}, "do not change what"),
        (toy_vit, "macs<=50%", {"tokens": {"blocks": [2]}}, "block indices from 0 to 1"),
        (toy_vit, "macs<=50%", {"tokens": {"fractions": []}}, "fractions is empty"),
        (toy_vit, "macs<=50%", {"tokens": {"branches": []}}, "branches is empty"),
        (toy_vit, "macs<=50%", {"tokens": {"selector": "spvit"}}, "selector"),
    ],
)
def test_what_cannot_be_shared_is_one_error_before_anything_runs(
    network: Any, budget: str, more: dict[str, Any], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edakari.criteria.Taylor, "score", lambda *arguments: pytest.fail("something ran"))
    with pytest.raises(EdakariError, match=error):
        edakari.prune(network(), ToyTask(), budget, {**HALF, **more})
