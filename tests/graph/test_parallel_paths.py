"""Parallel paths: any sides of sums are dropped exactly, at any size of images, and counted."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.utils.flop_counter import FlopCounterMode

from edakari.core.plan import DropBranch, Plan
from edakari.cost import COSTS
from edakari.errors import PlanError
from edakari.graph import trace
from edakari.models import build
from edakari.surgery import apply, simulate
from edakari.testing import difference, enlivened, exactness, random_plan


class Inception(nn.Module):
    """Sums of paths that differ in kernels, strides, poolings, resizing and code between modules."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 12, 1, stride=2)
        self.b1, self.norm = nn.Conv2d(8, 6, 5, padding=2), nn.BatchNorm2d(6)
        self.b2 = nn.Conv2d(6, 12, 3, stride=2, padding=1)
        self.c = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 12, 1))
        self.low = nn.Sequential(nn.Conv2d(12, 10, 2, stride=2), nn.Upsample(scale_factor=2))
        self.dilated = nn.Conv2d(12, 10, 3, padding=2, dilation=2)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.a(x)
        y += self.b2(F.relu(self.norm(self.b1(x)), inplace=True))
        y = F.relu(y + self.c(x))
        low = self.low(y)
        return self.head(F.interpolate(low, y.shape[2:]) + self.dilated(y))


class Projected(nn.Module):
    """ResNet blocks with convolutional shortcuts; one activation serves all."""

    def __init__(self):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.first, self.norm1 = nn.Conv2d(6, 9, 3, stride=2, padding=1), nn.BatchNorm2d(9)
        self.second, self.norm2 = nn.Conv2d(9, 9, 3, padding=1), nn.BatchNorm2d(9)
        self.shortcut = nn.Sequential(nn.Conv2d(6, 9, 1, stride=2), nn.BatchNorm2d(9))
        self.third, self.head = nn.Conv2d(9, 9, 3, padding=1), nn.Linear(9, 4)

    def forward(self, x):
        x = self.act(self.stem(x))
        y = self.norm2(self.second(self.act(self.norm1(self.first(x)))))
        y += self.shortcut(x)
        y = self.act(y)
        y = self.act(y + self.third(y))
        return self.head(y.mean((2, 3)))


class Summed(nn.Module):
    """`sum` of a list of paths, from as many channels to as many, of which other ones are cut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.paths = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 5, k, padding=k // 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 1))
            for k in (1, 3, 5)
        )
        self.plain = nn.ModuleList(nn.Conv2d(6, 6, k, padding=k // 2) for k in (1, 3))
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        x = sum([path(x) for path in self.paths]).relu()
        x = sum(layer(x) for layer in self.plain) / 2
        return self.head(x.relu())


class Stacked(nn.Module):
    """Paths that are stacked and then added or averaged, and a sum that weighs one side."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.paths = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 5, k, padding=k // 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 1))
            for k in (1, 3)
        )
        self.plain = nn.ModuleList(nn.Conv2d(6, 6, k, padding=k // 2) for k in (1, 3))
        self.left, self.right, self.head = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        x = torch.stack([path(x) for path in self.paths]).sum(0).relu()
        x = torch.stack([layer(x) for layer in self.plain], 1).mean(dim=1).relu()
        return self.head(torch.add(self.left(x), self.right(x), alpha=0.5).relu())


class Concatenated(nn.Module):
    """GoogLeNet's branches are concatenated: their channels are cut; where such modules are summed, they can go."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second, self.third = (self.inception(width) for width in (8, 12, 12))
        self.up, self.head = nn.Conv2d(12, 12, 1), nn.Linear(12, 4)

    @staticmethod
    def inception(width):
        return nn.ModuleList(
            (
                nn.Sequential(nn.Conv2d(width, 3, 1), nn.BatchNorm2d(3), nn.ReLU()),
                nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(width, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 5, padding=2), nn.BatchNorm2d(3)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(width, 2, 1)),
            )
        )

    def forward(self, x):
        x = self.stem(x).relu()
        x = torch.cat([branch(x) for branch in self.first], 1)
        x = torch.cat([branch(x) for branch in self.second], 1) + self.up(x)
        x = torch.cat([branch(x.relu()) for branch in self.third], 1)
        return self.head(x.mean((2, 3)))


def tiny(head):
    return build("edakari:supernet", preset="tiny", head=head, num_classes=3, transformer="all", tokens=5)


NETWORKS = {
    "inception": (Inception, {"a", "b2", "c", "low", "dilated"}),
    "projected": (Projected, {"norm2", "shortcut"}),
    "summed": (Summed, {"paths.0", "paths.1", "paths.2", "plain.0", "plain.1"}),
    "stacked": (Stacked, {"paths.0", "paths.1", "plain.0", "plain.1", "left", "right"}),
    "concatenated": (Concatenated, {"up"}),
    "classification": (lambda: tiny("classification"), {f"head.down.0.paths.{index}" for index in range(3)}),
    "segmentation": (lambda: tiny("segmentation"), {"head.block.paths.1", "head.block.shortcut", "head.block.norm"}),
    "pose": (lambda: tiny("pose"), {"stages.1.0.added.0.norm"}),
}


def traced(name):
    torch.manual_seed(0)
    model = enlivened(NETWORKS[name][0]())
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    return model, x, trace(model, x)


@pytest.mark.parametrize("name", NETWORKS)
def test_any_paths_and_channels_go_at_once_exactly_at_any_size_and_are_counted(name):
    model, x, graph = traced(name)
    assert {f"{path}:path" for path in NETWORKS[name][1]} <= {path.name for path in graph.paths}
    other = torch.rand(2, 3, 22, 28, dtype=torch.float64)
    for seed, drop in enumerate((0.1, 0.3, 0.6)):
        plan = random_plan(graph, keep=(0.3, 1.0), seed=seed, drop=drop)
        small = apply(model, plan, graph)
        assert exactness(model, x, plan, graph) < 1e-12
        with torch.no_grad():
            assert difference(small(other), simulate(model, plan, graph)(other)) < 1e-12
        with FlopCounterMode(display=False) as counter:
            small(x)
        assert COSTS["macs"](graph).total(plan.sizes()) == counter.get_total_flops() / 2
        assert COSTS["params"](graph).total(plan.sizes()) == sum(param.numel() for param in small.parameters())


@pytest.mark.parametrize("name", ["inception", "projected", "summed", "stacked", "concatenated"])
def test_every_subset_is_the_networks_own_code_with_zeros(name):
    """The oracle sets the outputs of modules to zero by hooks; it knows no graph."""
    model, _, graph = traced(name)
    ends = [path.exit for path in graph.paths]
    other = torch.rand(1, 3, 19, 26, dtype=torch.float64)
    for gone in itertools.chain.from_iterable(itertools.combinations(ends, count) for count in range(len(ends) + 1)):
        plan = Plan(tuple(DropBranch(f"{end}:path") for end in gone), graph.fingerprint, graph.inputs)
        small = apply(model, plan, graph)
        hooks = [model.get_submodule(end).register_forward_hook(lambda *call: call[-1] * 0) for end in gone]
        with torch.no_grad():
            assert difference(small(other), model(other)) < 1e-12, gone
        for hook in hooks:
            hook.remove()


def test_an_unknown_path_gets_the_nearest_name():
    model, _, graph = traced("projected")
    with pytest.raises(PlanError, match="did you mean 'shortcut:path'"):
        apply(model, Plan((DropBranch("shorcut:path"),), graph.fingerprint, graph.inputs), graph)
