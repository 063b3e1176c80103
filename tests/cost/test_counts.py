"""Counted costs against two counters that others wrote, and the contract of a cost."""

from __future__ import annotations

import dataclasses as dc
import math

import numpy as np
import pytest
import timm
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edakari.core.budget import Budget
from edakari.core.incremental_cost import incremental
from edakari.core.layout import Axis, Concat, Fixed, Product, extent
from edakari.core.plan import DropBranch
from edakari.core.space import Group
from edakari.cost import Count, activations, bind, dense, flops, macs, params, uncounted
from edakari.cost import size as size_of
from edakari.graph import trace
from edakari.surgery import apply
from edakari.testing import random_plan

NETWORKS = {
    "resnet18": lambda: timm.create_model("resnet18"),
    "mobilenetv2": lambda: torchvision.models.mobilenet_v2(),
    "resnext50": lambda: timm.create_model("resnext50_32x4d"),
    "densenet121": lambda: torchvision.models.densenet121(),
    "vit_tiny": lambda: timm.create_model("vit_tiny_patch16_224"),
    "swin_tiny": lambda: timm.create_model("swin_tiny_patch4_window7_224"),
    "convnext_atto": lambda: timm.create_model("convnext_atto"),
}
X = torch.zeros(1, 3, 224, 224)


def torch_macs(model: torch.nn.Module) -> int:
    # torch 2.11 does not count its fused attention on the CPU
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(X)
    return counter.get_total_flops() // 2


def bytes_of_state(model: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def fvcore_macs(model: torch.nn.Module) -> int:
    analysis = FlopCountAnalysis(model, X).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counted = analysis.by_operator()
    return int(sum(counted[name] for name in ("conv", "linear", "matmul", "addmm", "bmm", "einsum")))


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_and_params_equal_torchs_counter_dense_and_cut(name):
    model = NETWORKS[name]().eval()
    graph = trace(model, X)
    plan = random_plan(graph, (0.3, 0.8), seed=1)
    small = apply(model, plan)
    for network, sizes in ((model, {}), (small, plan.sizes())):
        assert macs(graph).total(sizes) == torch_macs(network)
        assert flops(graph).total(sizes) == 2 * torch_macs(network)
        assert params(graph).total(sizes) == sum(p.numel() for p in network.parameters())
        assert size_of(graph).total(sizes) == bytes_of_state(network)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "densenet121", "convnext_atto"])
def test_macs_equal_fvcores_counter(name):
    model = NETWORKS[name]().eval()
    assert macs(trace(model, X)).total({}) == fvcore_macs(model)


def test_activations_are_what_the_counted_layers_write():
    model = NETWORKS["resnet18"]().eval()
    counted = activations(trace(model, X)).total({})
    written = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda module, args, output: written.append(output.numel()))
    with torch.no_grad():
        model(X)
    assert counted == sum(written)


@pytest.mark.parametrize("cost", [macs, params, activations])
def test_a_curve_is_the_total_at_every_size(cost):
    graph = trace(NETWORKS["vit_tiny"](), X)
    count = cost(graph)
    sizes = dict(random_plan(graph, (0.3, 0.9), seed=3).sizes())
    for group in graph.groups[:6]:
        curve = count.curve(group, sizes)
        assert curve.shape == (group.size + 1,)
        for size in {1, group.size // 2, group.size}:
            assert curve[size] == count.total({**sizes, group.name: size})
        assert (curve[1:] >= curve[:-1]).all()


WHOLE = {"a": 3, "b": 5, "c": 2, "branch": 1}
axis = st.sampled_from([Axis(name, size) for name, size in WHOLE.items()])
layout = st.recursive(
    st.one_of(axis, st.builds(Fixed, st.integers(1, 4))),
    lambda part: st.tuples(part, part).flatmap(lambda parts: st.sampled_from([Product(parts), Concat(parts)])),
    max_leaves=4,
)
term = st.tuples(st.integers(1, 9), st.lists(layout, max_size=3).map(tuple))


@settings(max_examples=200, deadline=None)
@given(st.lists(term, max_size=4), st.fixed_dictionaries({}, optional={n: st.integers(0, s) for n, s in WHOLE.items()}))
def test_a_count_is_the_sum_of_its_terms_at_any_sizes(terms, sizes):
    count = Count("cost", "unit", tuple(terms))

    def right(sizes):
        return sum(factor * math.prod(extent(part, sizes) for part in layouts) for factor, layouts in terms)

    assert count.total(sizes) == right(sizes)
    for name, size in WHOLE.items():
        every = [right({**sizes, name: k}) for k in range(size + 1)]
        assert count.curve(Group(name, "channel", size), sizes).tolist() == every


moves = st.lists(
    st.sampled_from([(name, size) for name, most in WHOLE.items() for size in range(most + 1)]), max_size=6
)


@settings(max_examples=200, deadline=None)
@given(st.lists(term, max_size=4), moves)
def test_a_walk_gives_the_totals_of_where_it_stands(terms, moves):
    count = Count("cost", "unit", tuple(terms))
    sizes: dict[str, int] = {}
    increments = incremental(count, sizes)
    for name, size in moves:
        increments.move(name, size)
        sizes[name] = size
        assert increments.total == count.total(sizes)
        for other, most in WHOLE.items():
            choices = np.arange(most + 1)[::2]
            totals = [count.total({**sizes, other: choice}) for choice in choices.tolist()]
            assert increments.totals(Group(other, "channel", most), choices).tolist() == totals


def test_a_walk_squares_the_width_of_a_residual_stream():
    class Stream(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.out = (torch.nn.Conv2d(a, b, 1) for a, b in ((1, 6), (6, 6), (6, 1)))

        def forward(self, x):
            x = self.stem(x)
            return self.out(x + self.conv(x))

    graph = trace(Stream(), torch.zeros(1, 1, 1, 1))
    (stream,) = graph.groups
    increments = incremental(macs(graph), {})
    assert increments.total == 6 + 36 + 6
    assert increments.totals(stream, np.array([1, 2, 5])).tolist() == [1 + 1 + 1, 2 + 4 + 2, 5 + 25 + 5]
    increments.move(stream.name, 4)
    assert increments.total == 4 + 16 + 4


def test_a_dropped_branch_takes_its_terms_along():
    branch, stream, inner = Axis("branch", 1), Axis("stream", 8), Axis("inner", 4)
    count = Count("macs", "MAC", ((9, (stream, stream)), (1, (branch, stream, inner)), (1, (branch, inner, stream))))
    assert count.total({}) == 9 * 64 + 64
    assert count.total({"branch": 0}) == 9 * 64
    assert count.curve(Group("branch", "branch", 1), {"inner": 2}).tolist() == [9 * 64, 9 * 64 + 32]
    assert count.curve(Group("inner", "hidden", 4), {"branch": 0}).tolist() == [9 * 64] * 5


class Mixed(torch.nn.Module):
    """Weights in several types, one of them under two names, and buffers that a file holds and does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 8), torch.nn.Linear(8, 8).half()
        self.block = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 8))
        self.last, self.again = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.again.weight = self.last.weight
        self.register_buffer("passing", torch.zeros(8), persistent=False)

    def forward(self, x):
        x = self.second(self.first(x).half()).float() + self.passing
        return self.again(self.last(x + self.block(x)))


def test_size_is_what_the_file_holds_whatever_the_types_and_whatever_goes():
    model, x = Mixed().eval(), torch.zeros(2, 6)
    graph = trace(model, x)
    (branch,) = graph.branches
    for dropped in ((), (DropBranch(branch.name),)):
        plan = random_plan(graph, (0.3, 0.8), seed=1)
        plan = dc.replace(plan, edits=(*plan.edits, *dropped))
        assert size_of(graph).total(plan.sizes()) == bytes_of_state(apply(model, plan))
    assert size_of(graph).total({}) == bytes_of_state(model)
    assert bind(Budget.parse("size<=60%"), graph).terms[0][1] == pytest.approx(0.6 * bytes_of_state(model))


def test_what_is_not_counted_is_told():
    told = uncounted(trace(NETWORKS["resnet18"](), X))
    assert told["aten.native_batch_norm"] == 20
    assert "aten.convolution" not in told
    assert "aten.view" not in told


def test_a_budget_binds_shares_to_the_dense_cost():
    graph = trace(NETWORKS["resnet18"](), X)
    limits = bind(Budget.parse("macs<=50%, params<=8M"), graph)
    assert [(cost.name, limit) for cost, limit in limits.terms] == [("macs", dense(graph)["macs"] / 2), ("params", 8e6)]
    assert limits.excess({}) == pytest.approx(1.0)
