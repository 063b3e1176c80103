"""`flex_attention` takes functions, so it is neither a function that can be seen nor a common operator."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import edakari
from edakari.testing import enlivened, exactness, random_plan

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")


class Attention(nn.Module):
    """Scores and masks that go by numbers of heads and tokens, or by neither."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.heads = how, 2
        self.qkv, self.out = nn.Linear(12, 96), nn.Linear(32, 5)
        self.slopes, self.temperature = nn.Parameter(torch.rand(2)), nn.Parameter(torch.rand(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens, float [batch, tokens, 12]."""
        batch, tokens, _ = x.shape
        width = self.out.in_features // self.heads
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width).permute(2, 0, 3, 1, 4)
        options = {}
        if self.how == "by head":
            options["score_mod"] = lambda score, b, h, i, j: score + self.slopes[h] * (i - j)
        elif self.how == "by token":
            options["score_mod"] = lambda score, b, h, i, j: score * self.temperature + (i - j)
        elif self.how == "causal":
            options["block_mask"] = create_block_mask(
                lambda b, h, i, j: i >= j, None, None, tokens, tokens, device="cpu"
            )
        return self.out(flex_attention(q, k, v, **options).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("how", "kinds"),
    [
        ("plain", {"head", "head_dim"}),
        ("by head", {"head_dim"}),
        ("by token", {"head", "head_dim"}),
        ("causal", {"head", "head_dim"}),
    ],
)
@torch.no_grad()
def test_flex_attention_is_cut_exactly(how, kinds):
    model, x = enlivened(Attention(how)), torch.rand(2, 8, 12, dtype=torch.float64)
    graph = edakari.trace(model, x[:1])
    assert {group.kind for group in graph.groups} == kinds
    assert exactness(model, x, random_plan(graph)) < 1e-12


def test_an_operator_that_takes_functions_without_a_rule_pins():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            x = torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (x,))
            return self.last(self.second(x))

    graph = edakari.trace(Branching().eval(), torch.rand(2, 4))
    assert [group.name for group in graph.groups] == ["second"]
