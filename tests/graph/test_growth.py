"""Work of a trace in calls of functions, not in seconds: it grows with the network, not with its square."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

import edakari

WIDTH = 192
"""So large that the first trial cut tells all groups apart; otherwise there are more trial cuts, the more there are."""


class Attention(nn.Module):
    """A block whose reshape holds at some widths only if a branch is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        y = self.norms[0](x)
        q, k, v = (each(y).reshape(batch, tokens, self.heads, -1).transpose(1, 2) for each in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, -1))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Literal(nn.Module):
    """A residual block whose code fails without its branch: it takes a part of the branch's output apart."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 30), nn.Linear(30, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(self.norm(x))
        return x + self.outer(y.view(len(x), -1, 3, 10).flatten(2))


class Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(WIDTH, 96, 1, bias=False), nn.BatchNorm2d(96), nn.ReLU(inplace=True)),
            *(nn.Conv2d(96, 96, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(96), nn.ReLU(inplace=True)),
            *(nn.Conv2d(96, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH)),
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(WIDTH, 48, 1), nn.ReLU(), nn.Conv2d(48, WIDTH, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return torch.relu(x + y * self.gate(y).sigmoid())


def images(blocks: int) -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), *(Bottleneck() for _ in range(blocks))), torch.zeros(1, 3, 8, 8)


def tokens(block: Callable[[], nn.Module]) -> Callable[[int], tuple[nn.Module, torch.Tensor]]:
    return lambda blocks: (
        nn.Sequential(nn.Linear(5, WIDTH), *(block() for _ in range(blocks)), nn.Linear(WIDTH, 4)),
        torch.zeros(1, 6, 5),
    )


def calls(build: Callable[[int], tuple[nn.Module, torch.Tensor]], blocks: int) -> int:
    """Calls of functions, Python's and C's, while a network is traced."""
    with torch.device("meta"):
        model, example = build(blocks)
    edakari.trace(model, example)
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        edakari.trace(model, example)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "build", [images, tokens(Attention), tokens(Literal)], ids=["images", "attention", "branches that must stay"]
)
def test_the_work_of_a_trace_grows_with_the_network(build: Callable[[int], tuple[nn.Module, torch.Tensor]]) -> None:
    small, medium, large = (calls(build, blocks) for blocks in (2, 4, 8))
    # twice as many blocks add twice as much if work is linear, and four times as much if it is quadratic
    assert large - medium < 2.5 * (medium - small)
