"""Products of functions stay in a dropped branch: they run on the shapes that are counted, also where heads are cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.utils.flop_counter import FlopCounterMode

from edakari.core.plan import DropBranch, KeepChannels, Plan
from edakari.cost import COSTS
from edakari.graph import trace
from edakari.surgery import apply, simulate
from edakari.testing import difference, enlivened, exactness, random_plan


class Heads(nn.Module):
    """A projection to heads; its code knows their number."""

    def __init__(self, heads, width):
        super().__init__()
        self.line, self.heads, self.width = nn.Linear(12, heads * width), heads, width

    def forward(self, x):
        return self.line(x).view(x.shape[0], x.shape[1], self.heads, self.width).transpose(1, 2)


class Windows(nn.Module):
    """A projection, and groups of four tokens: how many depends on the input in a way that is not followed."""

    def __init__(self, width):
        super().__init__()
        self.line = nn.Linear(12, width)

    def forward(self, x):
        x = self.line(x)
        return x.view(-1, 4, x.shape[2])


class Tokens(nn.Module):
    """A residual branch of functions and modules, on tokens."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 12, 4, stride=4), nn.LayerNorm(12), nn.Linear(12, 3)
        self.make()

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head((x + self.branch(self.norm(x))).mean(1))


class Attention(Tokens):
    def make(self):
        self.q, self.k, self.v, self.proj = Heads(3, 4), Heads(3, 4), Heads(3, 6), nn.Linear(18, 12)

    def branch(self, x):
        weights = (self.q(x) @ self.k(x).transpose(-2, -1) / 2).softmax(-1)
        return self.proj((weights @ self.v(x)).transpose(1, 2).flatten(2))


class Fused(Tokens):
    def make(self):
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)

    def branch(self, x):
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 3, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Loose(Tokens):
    """Products with parameters that belong to no layer, on heads and on the branch's input."""

    def make(self):
        self.heads, self.proj = Heads(3, 4), nn.Linear(15, 12)
        self.each, self.all = nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(12, 15))

    def branch(self, x):
        return self.proj((self.heads(x) @ self.each).transpose(1, 2).flatten(2) + x @ self.all)


class Windowed(Tokens):
    def make(self):
        self.q, self.v, self.proj = Windows(8), Windows(8), nn.Linear(8, 12)

    def branch(self, x):
        q = self.q(x)
        return self.proj((q @ q.transpose(1, 2)) @ self.v(x)).view_as(x)


class Parallel(nn.Module):
    """A non-local path beside a convolution: either can go."""

    def __init__(self):
        super().__init__()
        self.stem, self.other, self.head = nn.Conv2d(3, 12, 3, stride=2), nn.Conv2d(12, 10, 1), nn.Conv2d(10, 2, 1)
        self.q, self.k, self.v, self.proj = (nn.Conv2d(a, b, 1) for a, b in ((12, 6), (12, 6), (12, 7), (7, 10)))

    def forward(self, x):
        x = F.relu(self.stem(x))
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        y = (q.transpose(1, 2) @ k / 10) @ v.transpose(1, 2)
        return self.head(self.other(x) + self.proj(y.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])))


def traced(kind):
    torch.manual_seed(0)
    model, x = enlivened(kind()), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    return model, x, trace(model, x)


def flops(model, x):
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(x)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Attention, ["v:branch"]),
        (Fused, ["qkv:branch"]),
        (Loose, ["proj:branch"]),
        (Windowed, []),
        (Parallel, ["other:path", "proj:path"]),
    ],
)
def test_products_in_a_dropped_branch_are_counted_where_heads_are_cut_too(kind, expected):
    model, x, graph = traced(kind)
    assert [branch.name for branch in graph.droppable] == expected
    other = torch.rand(2, 3, 24, 24, dtype=torch.float64)
    for seed in range(2):
        cut = random_plan(graph, keep=(0.3, 0.9), seed=seed)
        assert any(isinstance(edit, KeepChannels) for edit in cut.edits)
        plan = Plan((*cut.edits, *map(DropBranch, expected[-1:])), graph.fingerprint, graph.inputs)
        small = apply(model, plan, graph)
        assert COSTS["flops"](graph).total(plan.sizes()) == flops(small, x)
        assert exactness(model, x, plan, graph) < 1e-12
        with torch.no_grad():
            assert difference(small(other), simulate(model, plan, graph)(other)) < 1e-12
