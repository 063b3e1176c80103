"""Methods that prune tokens on networks with stages: counts are searched, and cost what is counted afterwards."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.pit import PoolingVisionTransformer
from timm.models.swin_transformer import SwinTransformer
from torch import nn

import edakari
from edakari.core.plan import KeepTokens, Plan
from edakari.cost import macs
from edakari.errors import DataError, InfeasibleBudget, ModelError, PlanError
from edakari.graph import fixed_graph
from edakari.latency import runtimes
from edakari.methods.spvit import SoftTokenPruning
from edakari.methods.token_baselines import AttentionTokens, MergedTokens, PredictedTokens, RandomTokens
from edakari.pipeline.settings import LatencySettings
from edakari.surgery.tokens import token_sites
from edakari.surgery.tokens.costs import tokens_at
from edakari.surgery.tokens.graphs import token_macs
from edakari.tasks.own import Task
from edakari.testing.formula_runtime import FormulaRuntime
from edakari.testing.toys import toy_job

EXAMPLE = torch.zeros(1, 3, 16, 16)


def swin() -> nn.Module:
    torch.manual_seed(0)
    return SwinTransformer(
        img_size=16, patch_size=2, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=4
    ).eval()


def pit() -> nn.Module:
    torch.manual_seed(0)
    return PoolingVisionTransformer(
        *(16, 4, 2, "overlap"), base_dims=[8, 8], depth=[2, 3], heads=[2, 4], mlp_ratio=4, num_classes=4
    ).eval()


@pytest.mark.parametrize(("make", "budget"), [(swin, "macs<=88%"), (pit, "macs<=88%")])
@pytest.mark.parametrize(
    "method",
    [
        SoftTokenPruning(training={"selector_epochs": 1, "joint_epochs": 1}),
        PredictedTokens(training={"selector_epochs": 1, "joint_epochs": 0}),
        RandomTokens(),
    ],
    ids=lambda method: type(method).__name__,
)
def test_counts_are_searched(make: Callable[[], nn.Module], budget: str, method: Any) -> None:
    model = make()
    job = toy_job(model, budget)
    outcome = method.prune(job)
    sites = token_sites(make(), EXAMPLE)
    whole = dict(zip(sites.names, sites.patches, strict=True))
    edits = outcome.plan.tokens()
    assert [edit.block for edit in edits] == [sites.names[index] for index in sites.quarters()]
    shares = [edit.count / whole[edit.block] for edit in edits]
    assert max(shares) - min(shares) < 0.1
    limit = job.budget.terms[0].limit
    assert 0.95 * limit <= macs(fixed_graph(outcome.model, EXAMPLE)).total({}) <= limit
    assert edakari.apply(make(), outcome.plan).state_dict().keys() == outcome.model.state_dict().keys()


@pytest.mark.parametrize("make", [swin, pit])
def test_costs_are_what_is_counted(make: Callable[[], nn.Module]) -> None:
    model = make()
    graph, sites = edakari.trace(model, EXAMPLE), token_sites(model, EXAMPLE)
    cost = token_macs(model, EXAMPLE, sites, "none")
    assert cost.total({}) == macs(graph).total({})
    edits = tuple(KeepTokens(sites.names[index], 5, "random") for index in sites.quarters())
    small = edakari.apply(model, Plan(edits, graph.fingerprint, graph.inputs))
    found = macs(edakari.trace(small, EXAMPLE)).total({})
    assert cost.total({tokens_at(edit.block): edit.count for edit in edits}) == found < macs(graph).total({})


def test_a_latency_that_no_count_reaches_is_told_with_the_least(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = FormulaRuntime(factor=1.3, constant=0.4)
    monkeypatch.setitem(runtimes.RUNTIMES._registered, runtime.name, lambda: runtime)
    monkeypatch.setattr("edakari.latency.timing.time", runtime)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path))
    timed = LatencySettings(runtime="formula", networks=4)
    with pytest.raises(InfeasibleBudget, match=r"the fewest tokens at these blocks reach latency \d"):
        edakari.prune(swin(), EXAMPLE, "latency<=50%", SoftTokenPruning(blocks=(0, 2)), latency=timed)


def test_what_stages_cannot_do_is_told() -> None:
    with pytest.raises(PlanError, match=r"one selector, but blocks .* begin at blocks \[0, 2\]"):
        RandomTokens(blocks=(2, 3)).prune(toy_job(swin(), "macs<=90%"))
    for method in (AttentionTokens(), MergedTokens()):
        with pytest.raises(PlanError, match=r"attention over all tokens.*use spvit"):
            method.prune(toy_job(swin(), "macs<=90%"))
    with pytest.raises(ModelError, match="schedule: geometric"):
        SoftTokenPruning(schedule="progressive").prune(toy_job(swin(), "macs<=90%"))


def test_selectors_without_data_stay_as_they_start() -> None:
    job = dc.replace(toy_job(pit(), "macs<=90%"), task=Task.of(EXAMPLE))
    outcome = PredictedTokens().prune(job)
    x = torch.randn(2, *EXAMPLE.shape[1:])
    assert torch.equal(outcome.model(x), edakari.apply(pit(), outcome.plan).eval()(x))
    with pytest.raises(DataError, match="need training, but the task has no data"):
        PredictedTokens(start="random").prune(job)
