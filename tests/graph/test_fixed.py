"""The graph of a network that stays as it is: the operators, calls and costs of `trace`, and nothing to prune."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import Fixed, extent
from edakari.core.plan import KeepTokens
from edakari.cost import dense, uncounted
from edakari.errors import ModelError
from edakari.graph import fixed_graph, trace
from edakari.surgery.tokens import attach
from edakari.surgery.tokens.costs import block_macs
from edakari.surgery.tokens.gate import GATE
from edakari.testing.awkward import AWKWARD
from tests.graph.fuzz.networks import build, grow
from tests.surgery.tokens.networks import tiny

PATCHES = torch.zeros(2, 1, 24, 24, dtype=torch.float64)


class Looks(nn.Module):
    """Cannot run without data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.conv(x)
        return self.fc(x.mean((2, 3))) if float(x.sum().item()) < 1e30 else x


def with_selectors(selector: str) -> nn.Module:
    settings = (("package", "append"),) if selector == "spvit" else ()
    edits = [KeepTokens("blocks.1", 20, selector, settings), KeepTokens("blocks.3", 12, selector, settings)]
    return attach(tiny(), edits, PATCHES)


def random_program(seed: int) -> tuple[nn.Module, torch.Tensor]:
    program = grow(random.Random(seed).choice)
    return build(program), torch.zeros(2, 3, program.pixels, program.pixels)


CASES: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    **{name: lambda make=make: (make(), torch.zeros(2, 3, 32, 32)) for name, make in AWKWARD.items()},
    "looks at values": lambda: (Looks(), torch.zeros(2, 3, 8, 8)),
    "resnet18": lambda: (timm.create_model("resnet18"), torch.zeros(2, 3, 32, 32)),
    "mobilenetv3": lambda: (timm.create_model("mobilenetv3_small_050"), torch.zeros(2, 3, 32, 32)),
    **{name: lambda name=name: (with_selectors(name), PATCHES) for name in ("evit", "tome", "spvit")},
    **{f"random {seed}": lambda seed=seed: random_program(seed) for seed in range(8)},
}


def plain(graph: Graph) -> list[tuple[Any, ...]]:
    """The operators and module calls with lengths in place of layouts."""

    def lengths(tensors: Any) -> Any:
        return tuple(tuple(int(extent(dim, {})) for dim in dims) for dims in tensors)

    operators = [
        (each.name, each.module, lengths(each.outputs), lengths(each.inputs), each.sources, dict(each.settings))
        for each in graph.operators
    ]
    return [*operators, *((each.module, lengths(each.inputs), lengths(each.outputs)) for each in graph.calls)]


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_operators_and_costs_are_those_of_the_trace(make: Callable[[], tuple[nn.Module, torch.Tensor]]) -> None:
    model, example = make()
    traced, fixed = trace(model, example), fixed_graph(model, example)
    assert dense(fixed) == dense(traced)
    assert dense(fixed)["macs"] > 0
    assert uncounted(fixed) == uncounted(traced)
    assert plain(fixed) == plain(traced)
    assert (fixed.parameters, fixed.device, fixed.inputs) == (traced.parameters, traced.device, traced.inputs)
    assert (fixed.groups, fixed.branches, fixed.unprunable) == ((), (), ())
    assert all(isinstance(dim, Fixed) for dims in fixed.layouts.values() for dim in dims)


@pytest.mark.parametrize("selector", ["evit", "spvit"])
def test_each_block_and_its_selector_count_as_in_the_trace(selector: str) -> None:
    model = with_selectors(selector)
    names = [f"blocks.{index}" for index in range(6)]
    (blocks, selectors, rest), (mine, own, others) = (
        block_macs(graph_of(model, PATCHES), names, GATE) for graph_of in (trace, fixed_graph)
    )
    assert mine.tolist() == blocks.tolist()
    assert (own, others) == (selectors, rest)
    assert len(set(mine.tolist())) == 3


def test_what_cannot_run_is_told_as_by_the_trace() -> None:
    for graph_of in (trace, fixed_graph):
        with pytest.raises(ModelError, match="fails on an example of shape"):
            graph_of(nn.Linear(3, 4), torch.zeros(1, 5))
