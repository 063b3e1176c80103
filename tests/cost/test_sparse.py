"""Sparse counts against counting by hand: every multiplication with a weight that is not zero, on the cut network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edakari
from edakari.core.graph import Graph
from edakari.core.plan import DropBranch, Plan
from edakari.cost import macs, params
from edakari.cost.sparse import sparse_counts
from edakari.errors import PlanError
from edakari.graph import maskable_weights, trace
from edakari.graph.maskable import output_weights
from edakari.surgery import apply, held_masks, mask_weights
from edakari.testing import random_plan, toy_cnn, toy_vit

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def by_hand(model: nn.Module, x: torch.Tensor) -> tuple[dict[str, int], int]:
    """Multiplications of each layer with its weights that are not masked, one image, from the layers' own outputs."""
    held, found, dense = held_masks(model), dict[str, int](), [0]

    def count(path: str, layer: nn.Module) -> None:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            name, weight = f"{path}.weight", module.weight
            positions = output.numel() // weight.shape[0]
            mask = held.get(name, torch.ones_like(weight, dtype=torch.bool))
            found[name] = found.get(name, 0) + sum(positions for bit in mask.flatten().tolist() if bit)
            dense[0] += positions * weight.numel()

        layer.register_forward_hook(hook)

    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            count(path, layer)
    model.eval()(x)
    return found, dense[0]


def plan_for(model: nn.Module, graph: Graph, names: tuple[str, ...]) -> Plan:
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(model.get_parameter(name).shape, generator=generator) < 0.3 for name in names}
    return mask_weights(graph, masks)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("make", [toy_cnn, lambda: edakari.build("edakari:resnet20"), toy_vit])
def test_counts_are_those_of_the_network_that_apply_makes(make, cut: bool) -> None:
    torch.manual_seed(0)
    model = make()
    graph = trace(model, X)
    names = maskable_weights(graph, linear=True)
    plan = plan_for(model, graph, names)
    if cut:
        plan = plan.then(random_plan(graph, 0.6, drop=0.3))
    small = apply(model, plan, graph)
    counts, (layers, dense) = sparse_counts(graph, plan, names), by_hand(small, X)
    assert {layer.parameter: layer.sparse_macs for layer in counts.layers} == layers
    without = counts.macs - dense  # products of two activations, as in attention
    assert counts.sparse_macs == sum(layers.values()) + without
    assert counts.macs == macs(graph).total(plan.sizes())
    zeros = sum(int((~mask).sum()) for mask in held_masks(small).values())
    assert counts.params == params(graph).total(plan.sizes()) == sum(each.numel() for each in small.parameters())
    assert counts.sparse_params == counts.params - zeros
    norms = sum(
        each.numel() for part in small.modules() if isinstance(part, nn.BatchNorm2d) for each in part.parameters()
    )
    if make is not toy_vit:
        assert counts.norm_params == norms
        assert counts.layer_params == (counts.sparse_params - norms, counts.params - norms)
    maskable = [name for name in names if name in dict(small.named_parameters())]
    left = sum(int(held_masks(small)[name].sum()) for name in maskable)
    every = sum(small.get_parameter(name).numel() for name in maskable)
    assert counts.maskable == (left, every)
    assert counts.uniform_macs == pytest.approx(counts.macs * left / every, rel=1e-12)


def test_the_uniform_figure_by_hand() -> None:
    """Ten weights at one position and 40 at four; half of the first masked, and the classifier is never masked."""
    model = nn.Sequential(nn.Conv2d(2, 5, 2, bias=False), nn.ReLU(), nn.Conv2d(5, 8, 1, bias=False), nn.Conv2d(8, 3, 1))
    graph = trace(model, torch.zeros(1, 2, 3, 3))
    assert maskable_weights(graph) == ("0.weight", "2.weight")
    mask = torch.zeros(5, 2, 2, 2, dtype=torch.bool).flatten()
    mask[:10] = True
    counts = sparse_counts(graph, mask_weights(graph, {"0.weight": mask.view(5, 2, 2, 2)}))
    assert counts.macs == 4 * (40 + 40 + 24)
    assert counts.sparse_macs == 4 * (10 + 40 + 24)
    assert counts.maskable == (50, 80)
    assert counts.uniform_macs == 4 * 104 * 50 / 80
    assert counts.layer_params == (10 + 40 + 24 + 3, 40 + 40 + 24 + 3)
    assert "37.5% of its maskable weights masked" in repr(counts)
    assert counts._repr_html_().count("<tr>") == 4


def test_a_dropped_branch_is_not_counted() -> None:
    model = edakari.build("edakari:resnet20")
    graph = trace(model, X)
    drop = Plan((DropBranch(graph.branches[0].name),), graph.fingerprint, graph.inputs)
    names = maskable_weights(graph)
    counts = sparse_counts(graph, plan_for(model, graph, names).then(drop))
    gone = set(graph.branches[0].parameters)
    assert gone & set(names)
    assert not gone & {layer.parameter for layer in counts.layers}
    assert all(layer.kept < layer.weights for layer in counts.layers if layer.maskable)


class Shared(nn.Module):
    """A convolution that runs twice, two heads behind a resize, an embedding tied to a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.left, self.right = nn.Conv2d(3, 2, 1), nn.ConvTranspose2d(3, 2, 2)
        self.table, self.tied = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        self.tied.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.norm(self.conv(self.conv(x)))
        z = self.tied(self.table.weight.new_ones(1, 3) * self.table(torch.zeros(1, dtype=torch.long)))
        return nn.functional.interpolate(self.left(y), scale_factor=2), torch.sigmoid(self.right(y)), z * 1


def test_what_is_maskable_follows_from_the_graph() -> None:
    graph = trace(Shared(), X)
    assert set(output_weights(graph)) == {"left.weight", "right.weight", "table.weight"}
    assert maskable_weights(graph) == ("conv.weight",)
    assert maskable_weights(graph, outputs=True, linear=True) == ("conv.weight", "left.weight", "right.weight")
    counts = sparse_counts(graph, mask_weights(graph, {"conv.weight": torch.rand(3, 3, 3, 3) < 0.5}))
    layer = next(layer for layer in counts.layers if layer.parameter == "conv.weight")
    assert layer.macs == 2 * 81 * 16 * 16
    assert layer.sparse_macs == 2 * layer.kept * 16 * 16


def test_defaults_leave_out_classifiers_norms_biases_and_linear_layers() -> None:
    graph = trace(toy_cnn(), X)
    every = [name for name in graph.parameters if len(graph.layouts[name]) == 4]
    assert maskable_weights(graph) == tuple(every)
    assert maskable_weights(graph, linear=True) == tuple(every)
    assert maskable_weights(graph, linear=True, outputs=True) == (*every, "head.weight")
    assert maskable_weights(graph, excluded=("stem", "first.*")) == tuple(every[2:])
    assert maskable_weights(graph, excluded=("stem.0.weight",)) == tuple(every[1:])
    with pytest.raises(PlanError, match=r"did you mean 'stem\.0'"):
        maskable_weights(graph, excluded=("stem0",))
    vit = trace(toy_vit(), X)
    assert maskable_weights(vit) == ("patch_embed.proj.weight",)
    linear = maskable_weights(vit, linear=True)
    assert len(linear) == 1 + 2 * 4
    assert "head.weight" not in linear


def test_wrong_arguments_are_refused() -> None:
    model = toy_cnn()
    graph = trace(model, X)
    plan = plan_for(model, graph, ("stem.0.weight",))
    with pytest.raises(PlanError, match=r"masks 'stem\.0\.weight', which is not among"):
        sparse_counts(graph, plan, ["head.weight"])
    with pytest.raises(PlanError, match="another network"):
        sparse_counts(trace(toy_vit(), X), plan)
    with pytest.raises(PlanError, match="without the bits"):
        sparse_counts(graph, Plan.from_json(plan.to_json()))
