"""Depth: residual branches are found, dropped exactly, and counted."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edakari.core.plan import DropBranch, Plan
from edakari.core.space import legal_sizes, limited
from edakari.cost import COSTS
from edakari.graph import trace
from edakari.surgery import apply, load, save, simulate
from edakari.testing import enlivened, exactness, random_plan

NETWORKS = {
    "timm:resnet18": (64, ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
    "torchvision:mobilenet_v2": (64, [f"features.{block}.conv" for block in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]),
    "timm:test_vit": (160, [f"blocks.{block}.{part}" for block in range(6) for part in ("attn", "mlp")]),
    "torchvision:swin_t": (64, None),
    "timm:test_convnext": (64, None),
}


def build(name: str) -> nn.Module:
    source, _, short = name.partition(":")
    torch.manual_seed(0)
    return timm.create_model(short) if source == "timm" else torchvision.models.get_model(short)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropped_branches_are_exact_and_counted(name):
    side, expected = NETWORKS[name]
    model = enlivened(build(name))
    x = torch.rand(2, 3, side, side, dtype=torch.float64)
    graph = trace(model, x)
    found = [branch.name.removesuffix(":branch") for branch in graph.branches]
    assert found == expected if expected else len(found) > 5
    for seed in range(2):
        plan = random_plan(graph, keep=(0.4, 0.8), seed=seed, drop=0.5)
        small = apply(model, plan, graph)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            small(x)
        assert exactness(model, x, plan, graph) < 1e-9
        assert COSTS["macs"](graph).total(plan.sizes()) == counter.get_total_flops() / 2
        assert COSTS["params"](graph).total(plan.sizes()) == sum(p.numel() for p in small.parameters())


class Nested(nn.Module):
    """A branch inside of a branch, one whose shortcut has weights, and one that something else reads."""

    def __init__(self):
        super().__init__()
        self.stem, self.outer, self.inner = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.last, self.shortcut, self.path = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.read, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.outer(x)
        x = x + self.last(torch.tanh(y + self.inner(y)))
        x = self.shortcut(x) + self.path(x)
        y = self.read(x)
        return self.head(x + y) + y.mean(-1, keepdim=True)


def test_only_what_can_go_whole_is_offered():
    model = enlivened(Nested())
    x = torch.rand(2, 5, dtype=torch.float64)
    graph = trace(model, x)
    ends = {branch.exit: branch for branch in graph.branches}
    assert set(ends) == {"inner", "last"}
    assert set(ends["last"].parameters) > set(ends["inner"].parameters)
    for names in (["inner"], ["last"], ["inner", "last"]):
        plan = Plan(tuple(DropBranch(ends[name].name) for name in names), graph.fingerprint, graph.inputs)
        assert exactness(model, x, plan) < 1e-12
        left = sum(p.numel() for p in apply(model, plan).parameters())
        assert COSTS["params"](graph).total(plan.sizes()) == left


def test_a_network_without_a_branch_is_stored_and_comes_back(tmp_path):
    from edakari.models import build as build_named

    model = build_named("edakari:resnet20")
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    plan = random_plan(graph, drop=0.6, seed=3)
    assert [legal_sizes(branch.group) for branch in graph.branches] == [(0, 1)] * len(graph.branches)
    assert limited([graph.branches[0].group], round_to=8, min_channels=0.5) == (graph.branches[0].group,)
    assert any(isinstance(edit, DropBranch) for edit in plan.edits)
    small = apply(model, plan)
    save(small, plan, tmp_path / "small")
    again = load(tmp_path / "small")
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(x), small(x))


class Addends(nn.Module):
    """Two branches on one shortcut, three parallel paths inside of a branch, and two at the top level."""

    def __init__(self):
        super().__init__()
        self.stem, self.f, self.g = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.p, self.q, self.r = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm, self.left, self.right = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x, gone=()):
        def addend(name, x):
            return torch.zeros_like(x) if name in gone else getattr(self, name)(x)

        x = self.stem(x)
        x = x + addend("f", x) + addend("g", x)
        x = x + addend("norm", addend("p", x) + addend("q", x) + addend("r", x))
        return self.head(self.left(x) + self.right(x))


def test_addends_go_one_by_one_where_a_shortcut_stays():
    """The oracle is the network's own code without them, for every subset."""
    torch.manual_seed(0)
    model = enlivened(Addends())
    x = torch.rand(2, 5, dtype=torch.float64)
    graph = trace(model, x)
    ends = {branch.exit: branch for branch in graph.branches}
    assert list(ends) == ["f", "g", "p", "q", "r", "norm"]
    for gone in itertools.chain.from_iterable(itertools.combinations(ends, count) for count in range(7)):
        plan = Plan(tuple(DropBranch(ends[name].name) for name in gone), graph.fingerprint, graph.inputs)
        small = apply(model, plan, graph)
        with torch.no_grad():
            assert torch.allclose(small(x), model(x, gone), atol=1e-12)
            assert torch.allclose(simulate(model, plan, graph)(x), model(x, gone), atol=1e-12)
        assert COSTS["params"](graph).total(plan.sizes()) == sum(param.numel() for param in small.parameters())
