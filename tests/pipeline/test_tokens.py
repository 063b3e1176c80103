"""Token pruning through the pipeline and by one call, to latencies in a runtime whose times are a formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import edakari
from edakari.cost import dense
from edakari.errors import DataError, InfeasibleBudget, ModelError
from edakari.latency import runtimes
from edakari.methods.token_baselines import PredictedTokens
from edakari.pipeline import recipe_from
from edakari.pipeline.settings import LatencySettings
from edakari.testing import toy_cnn, toy_vit
from edakari.testing.formula_runtime import FormulaRuntime

TIMED: dict[str, Any] = {"runtime": "formula", "networks": 4}

VIT = """
import torch
from timm.models.vision_transformer import VisionTransformer


def vit():
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=1, in_chans=1, embed_dim=32, depth=4, num_heads=4, num_classes=3
    )
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FormulaRuntime:
    """A runtime in which a whole network takes longer than the sum of its layers, by a factor and a constant."""
    runtime = FormulaRuntime(factor=1.3, constant=0.4)
    monkeypatch.setitem(runtimes.RUNTIMES._registered, runtime.name, lambda: runtime)
    monkeypatch.setattr("edakari.latency.timing.time", runtime)
    monkeypatch.setenv("EDAKARI_CACHE", str(tmp_path / "cache"))
    return runtime


@pytest.mark.parametrize(
    ("method", "budget"),
    [
        ({"name": "evit", "blocks": [1, 2]}, "latency<=80%"),
        ({"name": "spvit", "blocks": [1, 2], "training": {"selector_epochs": 1, "joint_epochs": 1}}, "macs<=80%"),
    ],
    ids=["evit", "spvit"],
)
def test_a_recipe_from_end_to_end(
    method: dict, budget: str, fake: FormulaRuntime, content: dict, tmp_path: Path
) -> None:
    (tmp_path / "vits.py").write_text(VIT)
    changes = {
        "model": {"name": f"{tmp_path}/vits.py:vit", "weights": "random"},
        "method": method,
        "budget": budget,
        "latency": {"runtime": "formula", "repeats": 5, "networks": 4},
        "finetune": None,
        "measure": None,
        "export": ["onnx"] if method["name"] == "evit" else [],  # of all others: tests/export/test_tokens.py
    }
    result = edakari.run(recipe_from({**content, **changes}), tmp_path / "run")
    if "latency" in budget:
        assert abs(result.report["latencies"]["latency"]["relative_error"]) <= 0.05
    counts = [edit.count for edit in result.plan.tokens()]
    assert counts == sorted(counts, reverse=True)
    blocks = [(f"blocks.{block}", count, 64) for block, count in zip((1, 2), counts, strict=True)]
    assert [(each["block"], each["kept"], each["of"]) for each in result.report["tokens"]] == blocks
    assert result.report["networks"][-1]["costs"]["macs"] < result.report["networks"][0]["costs"]["macs"]
    assert (tmp_path / "run" / "explain" / "tokens_images.png").stat().st_size > 1000
    assert (tmp_path / "run" / "explain" / "tokens_counts.png").is_file() is (method["name"] == "spvit")
    assert (tmp_path / "run" / "export" / "pruned.onnx").is_file() is (method["name"] == "evit")
    again = edakari.load(tmp_path / "run", edakari.build(f"{tmp_path}/vits.py:vit"))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(x), result.model.eval()(x))


@pytest.mark.parametrize("by", ["tome", pytest.param("spvit", marks=pytest.mark.slow)])
def test_one_call_meets_a_latency(by: str, fake: FormulaRuntime) -> None:
    """The fewest tokens of SPViT reach 92.5 %; predictions corrected by the first round call that impossible.

    Selectors are timed like all layers, so the first network comes near the budget.
    """
    model = deep()
    found = edakari.prune(model, torch.zeros(1, 3, 16, 16), "latency<=92%", by, latency=LatencySettings(**TIMED))
    assert found.plan.tokens()
    graphs = [edakari.trace(network, torch.zeros(1, 3, 16, 16)) for network in (model, found.model)]
    before, after = (fake.latency(graph, {}) for graph in graphs)
    assert after / before <= 0.92 * 1.02
    assert abs(found.report["latencies"]["latency"]["rounds"][0]["relative_error"]) <= 0.05


def test_one_call_meets_macs_and_leaves_the_network() -> None:
    model, x = deep(), torch.randn(1, 3, 16, 16)
    before = model(x)
    small = edakari.prune(model, x, "macs<=70%", method="tome").model
    assert dense(edakari.trace(small, x))["macs"] <= 0.7 * dense(edakari.trace(model, x))["macs"]
    assert torch.equal(model(x), before)
    assert not torch.allclose(small(x), before)


def test_one_call_says_what_it_cannot_do(fake: FormulaRuntime) -> None:
    with pytest.raises(ModelError, match="has no tokens"):
        edakari.prune(toy_cnn(), torch.zeros(1, 3, 16, 16), "macs<=50%", method="tome")
    with pytest.raises(DataError, match="cannot do without data"):
        edakari.prune(deep(), torch.zeros(1, 3, 16, 16), "macs<=50%", PredictedTokens(start="random"))
    least = r"latency [\d.]+ ms: the fewest tokens at these blocks reach latency [\d.]+ ms"
    with pytest.raises(InfeasibleBudget, match=least):
        edakari.prune(deep(), torch.zeros(1, 3, 16, 16), "latency<=1%", method="tome", latency=LatencySettings(**TIMED))


def deep() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return type(toy_vit())(img_size=16, patch_size=2, embed_dim=32, depth=6, num_heads=4, num_classes=4).eval()
