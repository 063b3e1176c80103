"""Widths that code takes from elsewhere than an attribute: configuration objects, dicts, classes, properties."""

from __future__ import annotations

import argparse
import dataclasses as dc
import types
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

import edakari
from edakari.testing import enlivened, exactness, random_plan


@dc.dataclass
class Settings:
    """Settings that many modules share."""

    heads: int = 4
    width: int = 32


@dc.dataclass(frozen=True)
class FrozenSettings:
    """Settings that cannot be set."""

    heads: int = 4
    width: int = 32


class Config:
    """As transformers' networks have it."""

    def __init__(self) -> None:
        self.heads, self.width, self._name = 4, 32, "config"

    def __repr__(self) -> str:
        return f"{self.heads} {self.width}"


class Pair(NamedTuple):
    """A tuple with names."""

    heads: int
    width: int


EVERYWHERE = {"heads": 4, "width": 32}


class Block(nn.Module):
    """Attention whose code asks `held` for its widths."""

    heads_of_class, width_of_class = 4, 32
    OF_ALL: ClassVar[dict[str, int]] = {"heads": 4, "width": 32}

    def __init__(self, held: Any, ask: Any) -> None:
        super().__init__()
        self._held, self.ask = held, ask
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    @property
    def _property(self) -> tuple[int, int]:
        return self.heads_of_class, self.heads_of_class * (self.width_of_class // self.heads_of_class)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens, float [batch, tokens, 32]."""
        heads, width = self.ask(self)
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        return x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], width))


def net(held: Any, ask: Any) -> nn.Module:
    """Two blocks that share what they hold."""
    torch.manual_seed(0)
    return enlivened(nn.Sequential(nn.Linear(12, 32), Block(held, ask), Block(held, ask), nn.Linear(32, 5)))


def by_name(block: Any) -> tuple[int, int]:
    return block._held.heads, block._held.width


PLACES: dict[str, tuple[Any, Any]] = {
    "dataclass": (Settings(), by_name),
    "frozen dataclass": (FrozenSettings(), by_name),
    "configuration": (Config(), by_name),
    "named tuple": (Pair(4, 32), by_name),
    "namespace": (types.SimpleNamespace(heads=4, width=32), by_name),
    "arguments": (argparse.Namespace(heads=4, width=32), by_name),
    "dict": ({"heads": 4, "width": 32}, lambda block: (block._held["heads"], block._held["width"])),
    "nested": ({"a": Settings(), "b": [7, 32]}, lambda block: (block._held["a"].heads, block._held["b"][1])),
    "list": ([4, 32], lambda block: block._held),
    "class": (None, lambda block: (block.heads_of_class, block.width_of_class)),
    "property": (None, lambda block: block._property),
    "global": (EVERYWHERE, lambda block: (EVERYWHERE["heads"], block._held["width"])),
    "layer": (4, lambda block: (block._held, block.proj.out_features)),
    "weight": (4, lambda block: (block._held, block.qkv.weight.shape[0] // 3)),
}


@pytest.mark.parametrize("index", PLACES)
def test_widths_follow_wherever_they_are_held(index):
    model, x = net(*PLACES[index]), torch.rand(2, 6, 12, dtype=torch.float64)
    before = repr(PLACES[index][0])
    graph = edakari.trace(model, x[:1])
    assert {"head", "head_dim"} <= {group.kind for group in graph.groups}
    for seed in range(2):
        assert exactness(model, x, random_plan(graph, keep=(0.3, 0.7), seed=seed)) < 1e-12
    assert repr(PLACES[index][0]) == repr(model[1]._held) == before
    assert all(type(value) is int for value in EVERYWHERE.values())


@pytest.mark.parametrize(
    ("held", "ask"),
    [
        ("4 32", lambda block: tuple(map(int, block._held.split()))),
        ((4.0, 32.0), lambda block: tuple(map(int, block._held))),
        (None, lambda block: (4, 32)),
        (Block.OF_ALL, lambda block: (block._held["heads"], block._held["width"])),
    ],
)
def test_widths_that_nobody_can_follow_are_kept_with_a_reason(held, ask):
    model, x = net(held, ask), torch.rand(2, 6, 12, dtype=torch.float64)
    graph = edakari.trace(model, x[:1])
    assert "head" not in {group.kind for group in graph.groups}
    assert any("Block" in unprunable.reason for unprunable in graph.unprunable)
    assert exactness(model, x, random_plan(graph)) < 1e-12
    # what other networks read too is left alone
    assert Block.OF_ALL == {"heads": 4, "width": 32}
    assert all(type(value) is int for value in Block.OF_ALL.values())
