"""Patterns of einops, which keeps the sizes of earlier calls."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

import edakari
from edakari.testing import enlivened, exactness, random_plan

einops = pytest.importorskip("einops")

HEADS = "b n (h d) -> b h n d"


class Block(nn.Module):
    """Attention whose heads a pattern makes."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by, self.heads, self.width = by, 4, 8
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens, float [batch, tokens, 32]."""
        given = {"h": {"h": self.heads}, "d": {"d": self.width}, "literal": {"h": 4}}[self.by]
        q, k, v = (einops.rearrange(part, HEADS, **given) for part in self.qkv(x).chunk(3, -1))
        return x + self.proj(einops.rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


@pytest.mark.parametrize("by", ["h", "d", "literal"])
def test_equal_layers_are_followed_alike_again_and_again(by):
    torch.manual_seed(0)
    model = enlivened(nn.Sequential(nn.Linear(12, 32), Block(by), Block(by), nn.Linear(32, 5)))
    x = torch.rand(2, 6, 12, dtype=torch.float64)
    traced = [edakari.trace(model, x).groups for _ in range(2)]
    assert traced[0] == traced[1]
    assert len(traced[0]) == (3 if by == "literal" else 5)
    assert exactness(model, x, random_plan(edakari.trace(model, x))) < 1e-12
