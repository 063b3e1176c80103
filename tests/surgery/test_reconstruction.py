"""Layers behind a cut that are refit: exact where what is gone can be made of what is left, never worse elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edakari
from edakari.core.plan import DropBranch, KeepChannels, Plan
from edakari.errors import DataError, PlanError
from edakari.graph import trace
from edakari.surgery import apply, reconstruct
from edakari.testing import random_plan, toy_cnn

IMAGES = torch.randn(16, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Redundant(nn.Module):
    """Linear throughout; the first and third layer give some channels that are sums of others."""

    def __init__(self, padding_mode: str = "zeros", bias: bool = True) -> None:
        super().__init__()
        conv = {"bias": bias, "padding_mode": padding_mode}
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=bias),
            nn.Conv2d(6, 8, 3, stride=2, padding=(2, 1), dilation=(1, 2), **conv),
            nn.Conv2d(8, 5, 1, bias=bias),
        )
        self.head, self.out = nn.Linear(5, 7, bias=bias), nn.Linear(7, 2, bias=bias)
        with torch.no_grad():
            for layer, mix in ((self.layers[0], (3, 5)), (self.layers[1], (0, 6, 7)), (self.head, (1, 4, 6))):
                rest = [index for index in range(layer.weight.shape[0]) if index not in mix]
                weights = torch.randn(len(mix), len(rest))
                layer.weight[list(mix)] = torch.einsum("mr,r...->m...", weights, layer.weight[rest])
                if bias:
                    layer.bias[list(mix)] = weights @ layer.bias[rest] + 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.head(self.layers(x).mean((2, 3))))


@pytest.mark.parametrize(("padding_mode", "bias"), [("zeros", True), ("reflect", True), ("zeros", False)])
def test_what_can_be_made_of_what_is_left_is_made_of_it(padding_mode: str, bias: bool) -> None:
    torch.manual_seed(3)
    model = Redundant(padding_mode, bias).double().eval()
    if bias and padding_mode == "zeros":  # a border of zeros is no sum of others plus a constant
        model.layers[0].bias.data[[3, 5]] -= 1.0
    kept = {"0": (0, 1, 2, 4), "1": (1, 2, 3, 4, 5)}
    edits = [KeepChannels(f"layers.{name}", indices) for name, indices in kept.items()]
    edits.append(KeepChannels("head", (0, 2, 3, 5)))
    graph = trace(model, IMAGES[:1])
    plan = Plan(tuple(edits), graph.fingerprint, graph.inputs)
    fitted = reconstruct(model, plan, [(IMAGES[:8], "label"), IMAGES[8:]], ridge=1e-13)
    other = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fitted(other), model(other), rtol=1e-6, atol=1e-6)
    assert (apply(model, plan)(other) - model(other)).abs().max() > 0.01
    assert {n: v.shape for n, v in fitted.state_dict().items()} == {
        n: v.shape for n, v in apply(model, plan).state_dict().items()
    }


def error(model: nn.Module, small: nn.Module, images: torch.Tensor) -> float:
    return float((model(images) - small(images)).detach().square().mean())


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 1.0, 1e6])
def test_a_layer_never_fits_worse_than_before(ridge: float) -> None:
    """The last layer alone is refit, so that the error of the outputs is that of its fit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(56, 4)).double().eval()
    x = torch.randn(12, 3, 9, dtype=torch.float64)
    graph = trace(model, x[:1])
    plan = Plan((KeepChannels("0", (1, 2, 5, 7)),), graph.fingerprint, graph.inputs)
    cut = apply(model, plan)
    fitted = reconstruct(model, plan, [x], ridge=ridge)
    before, after = error(model, cut, x), error(model, fitted, x)
    assert after <= before * (1 + 1e-9)
    if ridge < 1:
        assert after < 0.2 * before
    else:
        assert (ridge < 1e6) or after > 0.99 * before


def test_of_a_network_with_all_kinds_of_layers_only_readers_of_cuts_change() -> None:
    model = toy_cnn().double()
    images = torch.randn(32, 3, 16, 16, dtype=torch.float64)
    graph = trace(model, images[:1])
    for seed in range(3):
        plan = random_plan(graph, (0.5, 0.9), seed=seed)
        cut, fitted = apply(model, plan), reconstruct(model, plan, [images])
        assert error(model, fitted, images) < error(model, cut, images)
        before = cut.state_dict()
        changed = {name for name, value in fitted.state_dict().items() if not torch.equal(value, before[name])}
        readers = {"first.0", "second.0", "expand.0", "left.0", "right.0", "head"}
        assert changed <= {f"{layer}.{kind}" for layer in readers for kind in ("weight", "bias")}
        assert "head.weight" in changed


def test_dropped_branches_and_trained_weights_are_no_hindrance(tmp_path) -> None:
    model = toy_cnn().double()
    images = torch.randn(16, 3, 16, 16, dtype=torch.float64)
    graph = trace(model, images[:1])
    plan = Plan(
        (DropBranch(graph.branches[0].name), KeepChannels("expand.0", tuple(range(20)))),
        graph.fingerprint,
        graph.inputs,
    )
    small = apply(model, plan)
    small.head.bias.data += 3.0
    fitted = reconstruct(model, plan, [images], small=small)
    assert torch.equal(fitted.head.bias, small.head.bias), "no width that it reads is cut"
    edakari.save(fitted, plan, tmp_path / "net", base=model)


def test_batches_that_cannot_be_gone_through_again_are_told() -> None:
    model = toy_cnn().double()
    graph = trace(model, IMAGES[:1])
    plan = random_plan(graph, (0.5, 0.9), seed=0)
    with pytest.raises(DataError, match="only once"):
        reconstruct(model, plan, iter([IMAGES]))
    with pytest.raises(DataError, match="no batch"):
        reconstruct(model, plan, [])
    with pytest.raises(PlanError, match="another network"):
        reconstruct(nn.Sequential(nn.Conv2d(3, 4, 3)).double(), plan, [IMAGES])
