"""Gates: which batch norms gate which units, what a unit costs, and the penalty, against the paper's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edakari.core.layout import Axis, Concat, Fixed, Product
from edakari.core.space import Group
from edakari.cost import macs, params
from edakari.errors import ModelError
from edakari.graph import trace
from edakari.methods.tickets.gate_vector import GateVector
from edakari.methods.tickets.gates import GateGroup, cost_weights, gates_of, mean_cost, ungated, units_in
from edakari.models import build
from edakari.models.supernet_blocks import SearchBlock
from edakari.models.token_mixer import TokenMixer
from edakari.testing import toy_vit


def traced(model: nn.Module, *shape: int):
    with torch.device("meta"):
        example = torch.zeros(1, *shape)
    return trace(model, example)


def block(inputs: int, outputs: int, stride: int) -> nn.Module:
    with torch.device("meta"):
        return SearchBlock(inputs, outputs, stride)


@pytest.mark.parametrize(
    ("sizes", "side", "golden"),
    [((24, 24, 1), 56, (178_752, 228_928, 304_192)), ((18, 36, 2), 56, (91_728, 104_272, 123_088))],
)
def test_a_unit_of_a_block_costs_what_the_paper_says(sizes, side, golden):
    model = block(*sizes)
    groups = gates_of(model, traced(model, sizes[0], side, side))
    assert tuple(each.macs(each.group.size) for each in groups) == golden
    assert [each.macs(1) for each in groups] == list(golden)  # whatever is left
    assert [each.norms for each in groups] == [(f"paths.{index}.1.1.weight",) for index in range(3)]
    inputs, outputs, stride = sizes
    out = -(-side // stride)
    assert golden == tuple(side**2 * inputs + out**2 * (k**2 + outputs) for k in (3, 5, 7))


def test_removing_units_saves_what_they_cost_and_their_weights():
    """24 -> 24, kernel 5, three units: the specification's recount."""
    model = block(24, 24, 1)
    graph = traced(model, 24, 56, 56)
    name = "paths.1.0.0"
    left = {name: graph[name].size - 3}
    assert macs(graph).total({}) - macs(graph).total(left) == 3 * 228_928
    weights = 24 + 25 + 24
    assert params(graph).total({}) - params(graph).total(left) == 3 * (weights + 4)
    assert 3 * weights == 219


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "units", "extremes"),
    [
        ({}, 47_952, (0.223007, 6.533610)),
        ({"head": "segmentation"}, 44_928, (0.0841420, 9.788892)),
        ({"head": "pose"}, 44_928, (0.0841420, 9.788892)),
        ({"head": "segmentation", "num_classes": 150, "head_width": 180}, 44_928, (0.0728288, 10.337162)),
    ],
    ids=["imagenet", "cityscapes", "coco", "ade20k"],
)
def test_the_weights_of_the_papers_supernets(options, units, extremes):
    with torch.device("meta"):
        model = build("edakari:supernet", **options)
    groups = gates_of(model, traced(model, 3, 224, 224))
    weights = cost_weights(groups)
    assert sum(each.group.size for each in groups) == units
    assert (min(weights.values()), max(weights.values())) == pytest.approx(extremes, abs=1e-6)


def test_tokens_cost_more_the_more_there_are():
    with torch.device("meta"):
        mixer = TokenMixer(36, 36, 64)
    (tokens,) = gates_of(mixer, traced(mixer, 36, 28, 28))
    assert tokens.norms == ("norm.weight",)
    assert tokens.macs(64) == 86_400
    assert sum(tokens.macs(count) for count in range(1, 65)) == 4_497_408
    assert sum(tokens.macs(count) for count in range(1, 9)) == 447_488


def test_a_block_marks_its_gates_and_they_are_paths_and_tokens_only():
    model = Marked()
    graph = trace(model, torch.zeros(1, 3, 16, 16))
    found = {each.name for each in gates_of(model, graph)}
    assert found == {"block.paths.0.0.0", "block.paths.1.0.0", "block.paths.2.0.0", "block.mixer.squeeze"}
    assert "marks" in ungated(model, graph)["stem"]
    assert set(cost_weights(gates_of(model, graph), "equal").values()) == {1.0}


class Marked(nn.Module):
    """A search block with tokens, behind a stem that is not searched."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.block, self.head = SearchBlock(6, 6, 1, 3), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.norm(self.stem(x)).relu()).mean((2, 3)))


class Varied(nn.Module):
    """A residual stream, an inverted residual, squeeze-and-excitation, a concatenation and a bare convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.back, self.back_norm = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.expand, self.expand_norm = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)
        self.depth, self.depth_norm = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.left, self.right, self.cat_norm = nn.Conv2d(12, 5, 1), nn.Conv2d(12, 7, 1), nn.BatchNorm2d(12)
        self.bare, self.head = nn.Conv2d(12, 9, 1), nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_norm(self.stem(x)).relu()
        x = (x + self.back_norm(self.back(self.inner_norm(self.inner(x)).relu()))).relu()
        x = self.depth_norm(self.depth(self.expand_norm(self.expand(x)).relu())).relu()
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.cat_norm(torch.cat([self.left(x), self.right(x)], 1)).relu()
        return self.head(self.bare(x).relu().mean((2, 3)))


def test_gates_are_the_last_norms_before_what_reads_a_group():
    torch.manual_seed(0)
    model = Varied()
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    found = {each.name: each.norms for each in gates_of(model, graph)}
    assert found == {
        "stem": ("stem_norm.weight", "back_norm.weight"),
        "inner": ("inner_norm.weight",),
        "expand": ("depth_norm.weight",),
        "left": ("cat_norm.weight",),
        "right": ("cat_norm.weight",),
    }
    reasons = ungated(model, graph)
    assert set(reasons) == {"squeeze", "bare"}
    assert "head reads it without a batch norm" in reasons["bare"]


def test_a_network_without_batch_norms_gets_one_clear_error():
    model = toy_vit()
    with pytest.raises(ModelError, match=r"none of the \d+ groups has gates.*blocks.*without a batch norm.*magnitude"):
        gates_of(model, trace(model, torch.zeros(1, 3, 16, 16)))


def test_units_of_nested_layouts():
    layout = Concat((Fixed(2), Product((Axis("a", 2), Fixed(3))), Axis("b", 2)))
    assert units_in(layout, "a").tolist() == [-1, -1, 0, 0, 0, 1, 1, 1, -1, -1]
    assert units_in(layout, "b").tolist() == [-1] * 8 + [0, 1]


def two_groups() -> tuple[nn.Module, GateVector]:
    """The specification's example: two groups of 2 and 3 units that cost 10 and 20."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)
    )
    graph = trace(model, torch.zeros(1, 1, 2, 2))
    groups = (
        GateGroup(Group("0", "channel", 2), ("1.weight",), 10.0),
        GateGroup(Group("2", "channel", 3), ("3.weight",), 20.0),
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -2.0]))
        model[3].weight.copy_(torch.tensor([0.5, 0.0, -0.5]))
    weights = cost_weights(groups)
    assert mean_cost(groups) == pytest.approx(16, abs=1e-4)
    assert list(weights.values()) == pytest.approx([0.625, 1.25], abs=1e-5)
    named = {each.name: each for each in groups}
    return model, GateVector.of(model, graph, named, weights, mean_cost(groups))


def test_the_penalty_by_hand():
    model, vector = two_groups()
    gates = vector.gates(vector.scales())
    assert 0.1 * float((vector.weights(gates, 1e-3) * gates).sum()) == pytest.approx(0.3125, abs=1e-5)
    model[3].weight.grad = torch.ones(3)
    vector.penalise(0.1, 1e-3)
    assert model[1].weight.grad.tolist() == pytest.approx([0.0625, -0.0625], abs=1e-6)
    assert model[3].weight.grad.tolist() == pytest.approx([1.125, 1.0, 0.875], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_penalty_of_any_network_is_the_gradient_of_its_gates(dtype):
    """Units with several scales, norms over concatenations, tokens: against autograd, with weights held."""
    torch.manual_seed(0)
    for model in (Varied(), Marked()):
        graph = trace(model, torch.zeros(1, 3, 8, 8))
        groups = gates_of(model, graph)
        for each in groups:
            for name in each.norms:
                nn.init.normal_(model.get_parameter(name))
        model.to(dtype)
        named, mean = {each.name: each for each in groups}, mean_cost(groups)
        vector = GateVector.of(model, graph, named, cost_weights(groups), mean)
        vector.penalise(0.3, 0.5)
        found = {name: weight.grad.clone() for name, weight in vector.norms.items()}
        model.zero_grad()
        total = 0.0
        for each in groups:
            squares = torch.zeros(each.group.size)
            for name in each.norms:
                units = units_in(graph.layouts[name][0], each.name)
                here = np.flatnonzero(units >= 0)
                scales = model.get_parameter(name)[here].float()
                squares = squares.index_add(0, torch.from_numpy(units[here]), scales**2)
            gates = squares.sqrt()
            cost = each.macs(max(1, int((gates > 0.5).sum()))) if each.quadratic else each.macs(1)
            total = total + 0.3 * cost / mean * gates.sum()
        total.backward()
        for name, grad in found.items():
            torch.testing.assert_close(
                grad, model.get_parameter(name).grad, rtol=1e-2 if dtype.itemsize < 4 else 1e-5, atol=1e-6
            )
