"""Receptive fields from the geometry against the gradients of the input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from edakari.core.graph import Graph
from edakari.graph import trace
from edakari.graph.receptive import Box, Field, box, receptive_fields
from edakari.models import build


def positive(network: nn.Module) -> nn.Module:
    """All weights above zero, so that no gradient vanishes by chance; float64."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.1, 0.2)
    return network.double().eval()


def gradient_box(network: nn.Module, example: torch.Tensor, row: int, column: int) -> Box | None:
    """The pixels that move one position of the network's output; None where none does."""
    images = torch.rand_like(example).requires_grad_(True)
    network(images)[0, :, row, column].sum().backward()
    assert images.grad is not None
    moved = images.grad[0].abs().sum(0) > 0
    if not moved.any():
        return None
    rows, columns = moved.any(1).nonzero().view(-1).tolist(), moved.any(0).nonzero().view(-1).tolist()
    return rows[0], columns[0], rows[-1], columns[-1]


def last(graph: Graph) -> dict[int, Field]:
    return dict(receptive_fields(graph)[len(graph.operators) - 1])


def stack(act: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1),
        act(),
        nn.AvgPool2d(3, 2, 1),
        nn.Conv2d(3, 3, 3, padding=1),
        act(),
        nn.Conv2d(3, 2, 3, padding=2, dilation=2),
        act(),
    )


def test_geometry_equals_the_gradients_box() -> None:
    network, example = positive(stack(nn.Softplus)), torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    seen = last(trace(network, example))
    assert seen == dict.fromkeys((2, 3), Field(31, 4, -15))
    for row, column in ((0, 0), (3, 5), (8, 8), (15, 15)):
        assert box(seen, (row, column), (64, 64)) == gradient_box(network, example, row, column)
    assert box(seen, (3, 5), (64, 64)) == (0, 5, 27, 35)


def test_with_relu_the_gradients_lie_inside_of_the_field() -> None:
    torch.manual_seed(1)
    network, example = stack(nn.ReLU).double().eval(), torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, 0.3)
    seen = last(trace(network, example))
    alive = 0
    for row, column in ((0, 0), (2, 13), (7, 9), (8, 8), (15, 4)):
        images = torch.randn(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
        network(images)[0, :, row, column].sum().backward()
        assert images.grad is not None
        alive += int(images.grad.abs().sum() > 0)
        top, left, bottom, right = box(seen, (row, column), (64, 64))
        images.grad[0, 0, top : bottom + 1, left : right + 1] = 0
        assert images.grad.abs().sum() == 0
    assert alive


LAYER = st.tuples(
    st.sampled_from(("conv", "pool")),
    st.integers(1, 4),  # kernel
    st.integers(1, 3),  # stride
    st.integers(0, 2),  # padding, of half a kernel at most
    st.integers(1, 2),  # dilation
)


@settings(max_examples=25)
@given(st.lists(LAYER, min_size=1, max_size=4), st.integers(0, 99), st.integers(0, 99))
def test_random_stacks(layers: list[tuple[str, int, int, int, int]], row: int, column: int) -> None:
    modules: list[nn.Module] = []
    for kind, kernel, stride, padding, dilation in layers:
        if kind == "conv":
            modules.append(nn.Conv2d(1, 1, kernel, stride, padding, dilation))
        else:
            modules.append(nn.AvgPool2d(kernel, stride, min(padding, kernel // 2)))
        modules.append(nn.Softplus())
    network, example = positive(nn.Sequential(*modules)), torch.zeros(1, 1, 96, 90, dtype=torch.float64)
    try:
        height, width = network(example).shape[2:]
    except RuntimeError:
        return  # the stack leaves nothing of the image
    seen = last(trace(network, example))
    index = row % height, column % width
    found, inner = box(seen, index, (96, 90)), gradient_box(network, example, *index)
    if inner is None:
        return  # it lies in the padding alone
    # strides beyond the kernel and dilations leave gaps; where an edge falls into one, the field is a bound
    if any(dilation > 1 or stride > kernel for _, kernel, stride, _, dilation in layers):
        assert found[0] <= inner[0] <= inner[2] <= found[2]
        assert found[1] <= inner[1] <= inner[3] <= found[3]
    else:
        assert found == inner


class Merged(nn.Module):
    """Two ways to the same place, a gate that is the same everywhere, every second pixel, padding, and back up."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(1, 2, 5, 2, 2), nn.Conv2d(1, 2, 1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.up = nn.ConvTranspose2d(4, 2, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [N, 2, H, W]."""
        hidden = torch.cat([self.wide(x), self.narrow(functional.pad(x, (0, 1, 2, 0))[:, :, 2::2, :-1:2])], dim=1)
        with torch.no_grad():
            gate = self.gate(hidden.mean((2, 3), keepdim=True)).sigmoid()
        return self.up(hidden * gate)


def test_branches_gates_slices_padding_and_transposed_convolutions() -> None:
    network, example = positive(Merged()), torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    seen = last(trace(network, example))
    for row, column in ((0, 0), (11, 12), (23, 22)):
        top, left, bottom, right = box(seen, (row, column), (24, 24))
        inner = gradient_box(network, example, row, column)
        assert inner is not None
        assert top <= inner[0]
        assert left <= inner[1]
        assert inner[2] <= bottom
        assert inner[3] <= right
        # the field of a transposed window is a bound, at most one step of its input too wide
        assert max(inner[0] - top, inner[1] - left, bottom - inner[2], right - inner[3]) <= 2


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [2, 4, 0.5])
def test_resized_maps_are_read_from_the_centres_of_their_pixels(mode: str, scale: float) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Upsample(scale_factor=scale, mode=mode))
    network, example = positive(network), torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    seen = last(trace(network, example))
    length = int(12 * scale)
    for index in range(length):
        found, inner = box(seen, (index, index), (12, 12)), gradient_box(network, example, index, index)
        assert inner is not None
        assert found[0] <= inner[0] <= inner[2] <= found[2]
        assert found[1] <= inner[1] <= inner[3] <= found[3]
        # half a pixel of the finer raster may round to one more
        assert inner[0] - found[0] <= (scale < 1)
        assert found[2] - inner[2] <= (scale < 1)


class Blind(nn.Module):
    """Attention over all places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [N, 8, H, W]."""
        tokens = self.conv(x).flatten(2)
        return ((tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens).view(x.shape[0], 8, 8, 8)


def test_what_may_see_anything_has_no_field() -> None:
    graph = trace(Blind(), torch.zeros(1, 1, 8, 8))
    fields = receptive_fields(graph)
    assert 0 in fields
    assert len(graph.operators) - 1 not in fields


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("edakari:resnet20", {"shortcut": "pad"}, 32),
        ("edakari:fashion_cnn", {}, 28),
        ("timm:convnext_atto", {"num_classes": 3}, 64),
        ("timm:efficientnet_b0", {"num_classes": 3}, 64),
        ("torchvision:shufflenet_v2_x0_5", {"num_classes": 3}, 64),
    ],
)
def test_every_feature_map_of_a_network_has_a_field(name: str, options: dict[str, object], size: int) -> None:
    network = build(name, **options)
    channels = next(network.parameters()).shape[1]
    graph = trace(network, torch.zeros(1, channels, size, size))
    fields = receptive_fields(graph)
    maps = [
        index
        for index, operator in enumerate(graph.operators)
        if operator.name == "aten.convolution" and "se" not in operator.module and "gate" not in operator.module
    ]
    assert maps
    assert all(index in fields for index in maps)


def test_the_first_maps_of_a_network_against_the_gradient() -> None:
    network = build("edakari:resnet20", shortcut="pad")
    part = positive(nn.Sequential(network.get_submodule("stem"), network.get_submodule("stages.0")))
    part.append(network.get_submodule("stages.1.0").double())
    example = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    seen = last(trace(part, example))
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.1)
    assert box(seen, (7, 9), (32, 32)) == gradient_box(part, example, 7, 9)
