"""Tensors in plain attributes, which are neither parameters nor buffers, are cut along with what they meet."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.core.plan import Plan
from edakari.testing import difference, exactness, random_plan


def tables() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64) for size in ((1, 8, 32), (32,)))


HOLDERS: dict[str, Any] = {
    "list": (list, lambda held: held),
    "tuple": (tuple, lambda held: held),
    "dict": (lambda pair: {"a": pair[0], 1: pair[1]}, lambda held: held.values()),
    "nested": (lambda pair: {"a": [pair[0]], "b": {"c": pair[1]}}, lambda held: (held["a"][0], held["b"]["c"])),
    "namespace": (lambda pair: types.SimpleNamespace(a=pair[0], b=pair[1]), lambda held: (held.a, held.b)),
    "parameters in a list": (lambda pair: [nn.Parameter(each) for each in pair], lambda held: held),
    "part of a graph": (lambda pair: [nn.Parameter(each) * 2 for each in pair], lambda held: held),
}


class Net(nn.Module):
    """Holds tables in a plain attribute, and keeps one that its first pass made."""

    def __init__(self, holder: str) -> None:
        super().__init__()
        self.embed, self.mid, self.head = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 5)
        make, self.read = HOLDERS[holder]
        self._held = make(tables())
        self.made: torch.Tensor | None = None
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens, float [batch, 8, 12]."""
        shift, scale = self.read(self._held)
        x = self.seen = (self.embed(x) + shift.detach().type_as(x).to(x.device)) * scale.detach()
        if self.made is None or self.made.shape[-1] != x.shape[-1]:
            self.made = torch.full((x.shape[-1],), 2.0, dtype=x.dtype, device=x.device)
        return self.head(x * self.made + self.mid(x)).mean(1)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_plain_tensor_is_cut_with_what_it_meets(holder, used, tmp_path):
    torch.manual_seed(0)
    model, x = Net(holder).double().eval(), torch.rand(2, 8, 12, dtype=torch.float64)
    fresh = edakari.trace(model, x[:1])
    if used:
        model(x)  # keeps an activation and a table that it made
    graph = edakari.trace(model, x[:1])
    assert [(group.name, group.size) for group in graph.groups] == [("embed", 32)]
    assert graph.fingerprint == fresh.fingerprint
    with torch.no_grad():
        assert difference(edakari.apply(model, Plan((), graph.fingerprint, graph.inputs))(x), model(x)) == 0
    plan = random_plan(graph, seed=1)
    assert exactness(model, x, plan) < 1e-12
    small = edakari.apply(model, plan)
    edakari.save(small, plan, tmp_path / "small")
    again = edakari.load(tmp_path / "small", model=Net(holder).double().eval())
    assert torch.equal(again(x), small(x))


class OnlyTables(nn.Module):
    """A width that no weight makes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = torch.randn(8, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, float [batch, 8]."""
        return self.head((x[..., None] * self.table).mean(1))


def test_what_only_constants_make_stays():
    graph = edakari.trace(OnlyTables().eval(), torch.zeros(2, 8))
    assert not graph.groups
    assert "its values are constants, not made by weights" in {unprunable.reason for unprunable in graph.unprunable}


class ByColumns(nn.Module):
    """Weights whose columns are outputs, as `x @ weight` has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(12, 16)), nn.Parameter(torch.randn(5, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [batch, 12]."""
        return torch.relu(x @ self.first) @ self.second.t()


def test_what_the_columns_of_a_weight_make_is_no_constant():
    model, x = ByColumns().double().eval(), torch.rand(2, 12, dtype=torch.float64)
    graph = edakari.trace(model, x)
    assert [group.size for group in graph.groups] == [16]
    assert exactness(model, x, random_plan(graph)) < 1e-12
