"""Outlets: every group's writers are found, and zeros there equal the cut."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from edakari.core.graph import Graph
from edakari.core.plan import KeepChannels, Plan
from edakari.graph import trace
from edakari.graph.layer_outputs import layer_outputs_of, sums_into
from edakari.models import build
from edakari.surgery import apply
from edakari.testing import ToyTask, toy_cnn, toy_vit


class Functional(nn.Module):
    """Activations in the code, one of them in place; one module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.third = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 4]."""
        hidden = functional.relu(self.norm(self.first(x)), inplace=True)
        hidden = self.act(self.second(hidden))
        hidden = self.act(self.third(hidden))
        logits: torch.Tensor = self.head(hidden.mean((2, 3)))
        return logits


def seen(graph: Graph) -> dict[str, tuple[str, int, str, str]]:
    return {
        each.weight: (each.module, each.call, each.side, graph.operators[each.operator].name)
        for each in layer_outputs_of(graph)
    }


def test_what_lies_behind_norms_and_activations_is_seen_wherever_it_passes() -> None:
    assert seen(trace(Functional().eval(), torch.zeros(1, 3, 8, 8))) == {
        "first.weight": ("second", 0, "inputs", "aten.relu_"),
        "second.weight": ("act", 0, "outputs", "aten.relu_"),
        "third.weight": ("act", 1, "outputs", "aten.relu_"),
    }


def test_residual_sums_are_seen_before_the_sum() -> None:
    graph = trace(build("edakari:resnet20"), torch.zeros(1, 3, 32, 32))
    indices = seen(graph)
    assert indices["stages.0.0.second.0.weight"] == ("stages.0.0.second.1", 0, "outputs", "aten.native_batch_norm")
    assert indices["stages.0.0.first.0.weight"][3] == "aten.relu_"
    assert indices["stages.1.0.shortcut.0.weight"][3] == "aten.native_batch_norm"
    assert sorted(sums_into(graph).values()) == [3, 3, 3]


def test_gates_are_no_features() -> None:
    graph = trace(build("timm:efficientnet_b0", num_classes=2), torch.zeros(1, 3, 64, 64))
    writers = {each.weight for each in layer_outputs_of(graph)}
    assert "blocks.1.0.conv_dw.weight" in writers
    assert not [name for name in writers if "se.conv_expand" in name]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("torchvision:resnet18", 64),
        ("torchvision:mobilenet_v2", 64),
        ("torchvision:shufflenet_v2_x0_5", 64),
        ("timm:convnext_atto", 64),
        ("edakari:fashion_cnn", 28),
        ("edakari:fashion_vit", 28),
    ],
)
def test_every_group_of_a_network_has_an_outlet(name: str, size: int) -> None:
    network = build(name)
    graph = trace(network, torch.zeros(1, next(network.parameters()).shape[1] if size > 28 else 1, size, size))
    written = {group for layer_output in layer_outputs_of(graph) for group in layer_output.dims()}
    assert written == {group.name for group in graph.groups}


@contextlib.contextmanager
def zeroed(model: nn.Module, graph: Graph, group: str, gone: list[int]) -> Iterator[None]:
    """What layers write into some channels of a group is zero, where layer outputs see it."""
    handles = []
    for layer_output in layer_outputs_of(graph):
        dim = layer_output.dims().get(group)
        if dim is None:
            continue

        def blank(x: torch.Tensor, dim: int = dim) -> torch.Tensor:
            return x.index_fill(dim, torch.tensor(gone), 0.0)

        assert layer_output.call == 0
        module = model.get_submodule(layer_output.module)
        if layer_output.side == "outputs":
            handles.append(module.register_forward_hook(lambda module, args, out, blank=blank: blank(out)))
        else:
            handles.append(module.register_forward_pre_hook(lambda module, args, blank=blank: (blank(args[0]),)))
    assert handles
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("make", [toy_cnn, lambda: build("edakari:fashion_cnn"), lambda: build("edakari:resnet20")])
def test_zeros_at_the_outlets_equal_the_cut(make: Any) -> None:
    model = make().double()
    channels = next(model.parameters()).shape[1]
    images = torch.randn(2, channels, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = trace(model, images[:1])
    for group in graph.groups:
        gone = list(range(1, group.size, 3))
        keep = tuple(index for index in range(group.size) if index not in gone)
        small = apply(model, Plan((KeepChannels(group.name, keep),), graph.fingerprint, graph.inputs))
        with torch.no_grad(), zeroed(model, graph, group.name, gone):
            masked = model(images)
        with torch.no_grad():
            torch.testing.assert_close(small(images), masked, rtol=0, atol=1e-10)


def test_a_transformers_tokens_and_heads_are_written() -> None:
    graph = trace(toy_vit(), ToyTask().example())
    dims = {each.weight: each.dims() for each in layer_outputs_of(graph)}
    assert dims["blocks.0.attn.qkv.weight"] == {"blocks.0.attn.qkv:head": 2, "blocks.0.attn.qkv:head_dim": 2}
    assert dims["blocks.0.mlp.fc1.weight"] == {"blocks.0.mlp.fc1": 2}
