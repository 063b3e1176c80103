"""The peak of memory, against one that is counted while the network runs and every value goes after its last use."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Interpreter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edakari.core.budget import Budget
from edakari.core.plan import DropBranch, Plan
from edakari.cost import bind
from edakari.cost.memory import memory
from edakari.criteria import Magnitude
from edakari.graph import trace
from edakari.methods import allocate
from edakari.surgery import apply
from edakari.testing import check_cost, random_plan, toy_cnn, toy_vit


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all memory that operators have made and that some tensor still holds."""

    def __init__(self, held: list[torch.Tensor]) -> None:
        super().__init__()
        self.held = {tensor.untyped_storage()._cdata for tensor in held}
        self.tensors: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.held:
                self.now += 0 if self.tensors.get(storage._cdata) else storage.nbytes()
                self.tensors[storage._cdata] = self.tensors.get(storage._cdata, 0) + 1
                weakref.finalize(tensor, self.drop, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def drop(self, key: int, size: int) -> None:
        self.tensors[key] -= 1
        self.now -= 0 if self.tensors[key] else size


def measured(model: nn.Module, x: torch.Tensor) -> int:
    program = torch.export.export(model, (x,)).module()
    live = LiveBytes([*program.parameters(), *program.buffers(), x])
    with torch.no_grad(), live:
        kept = Interpreter(program, garbage_collect_values=True).run(x)
    assert kept is not None
    return sum(tensor.nbytes for tensor in model.state_dict().values()) + x.nbytes + live.peak


class Pieces(nn.Module):
    """Views, writes in place, a long skip and a list of tensors that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 20, 3, padding=1)
        self.third, self.last = nn.Conv2d(32, 6, 1), nn.Linear(6 * 64, 5)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = torch.relu_(self.first(x))
        two = self.second(one).relu()
        both = torch.cat([one, two], 1)
        return self.last(self.pool(self.third(both)).flatten(1))


NETWORKS: Mapping[str, tuple[Any, tuple[int, ...]]] = {
    "toy_cnn": (toy_cnn, (1, 3, 16, 16)),
    "toy_vit": (toy_vit, (1, 3, 16, 16)),
    "pieces": (Pieces, (1, 3, 16, 16)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_peak_is_what_is_counted_while_the_network_runs(name: str) -> None:
    make, shape = NETWORKS[name]
    model, x = make().eval(), torch.randn(shape)
    graph = trace(model, x)
    cost = memory(graph)
    assert cost.total({}) == measured(model, x)
    for seed in range(2):
        plan = random_plan(graph, 0.5, seed)
        small = apply(model, plan, graph)
        assert cost.total(plan.sizes()) == measured(small, x), seed
    check_cost(cost, graph.groups)


class Sides(nn.Module):
    """Two paths of one sum, with code that writes in place, and a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 1)
        self.b1, self.b2, self.head = nn.Conv2d(8, 15, 1), nn.Conv2d(15, 6, 1), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.a(x)
        y += self.b2(torch.relu_(self.b1(x)))
        found: torch.Tensor = self.head((y + self.c(y)).mean((2, 3)))
        return found


def test_zeros_of_dropped_sides_are_counted_where_they_are_made() -> None:
    torch.manual_seed(0)
    model, x = Sides().eval(), torch.randn(1, 3, 16, 16)
    graph = trace(model, x)
    cost = memory(graph)
    assert [side.name for side in graph.droppable] == ["a:path", "b2:path", "c:branch"]
    for gone, exactly in ((["a:path"], True), (["c:branch"], True), (["b2:path"], False)):
        cut = random_plan(graph, 0.5)
        plan = Plan((*cut.edits, *map(DropBranch, gone)), graph.fingerprint, graph.inputs)
        found, counted = measured(apply(model, plan, graph), x), cost.total(plan.sizes())
        # the exported program knows the shape of what `b1` read, and frees it before
        assert found == counted if exactly else found <= counted, gone


def test_a_larger_batch_is_counted_from_one_trace() -> None:
    model, x = toy_cnn().eval(), torch.randn(4, 3, 16, 16)
    assert memory(trace(model, x[:1]), batch=4).total({}) == measured(model, x)


def test_memory_is_a_budget() -> None:
    model, x = toy_cnn().eval(), torch.randn(1, 3, 16, 16)
    graph = trace(model, x)
    plan = allocate(graph, Magnitude().score(model, graph), "memory<=50%, macs<=60%")
    assert 0.45 < measured(apply(model, plan, graph), x) / measured(model, x) <= 0.5
    ((term, limit),) = bind(Budget.parse("Memory<=20KiB"), graph).terms
    assert (term.name, term.unit, limit) == ("memory", "B", 20480.0)


class _Norms(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 1), norm, nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(8, 8), nn.GroupNorm(4, 8)], ids=str)
def test_statistics_of_norms_shrink_with_the_channels_that_they_belong_to(norm: nn.Module) -> None:
    model, x = _Norms(norm).eval(), torch.randn(2, 3, 4, 4)
    graph = trace(model, x)
    plan = random_plan(graph, keep=0.5)
    assert memory(graph).total(plan.sizes()) == memory(trace(apply(model, plan, graph), x)).total({})
