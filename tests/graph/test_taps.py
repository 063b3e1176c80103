"""Taps: the last feature map of each resolution, whatever the network makes them of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edakari
from edakari.errors import ModelError, UnknownName
from edakari.graph.taps import Tapped, find_taps


def taps_of(name: str, size: tuple[int, ...]) -> list[tuple[str, int, int]]:
    with torch.device("meta"):
        model = edakari.build(name)
    graph = edakari.trace(model, torch.zeros(1, *size, device="meta"))
    return [(tap.module, tap.channels, tap.height) for tap in find_taps(model, graph)]


@pytest.mark.parametrize(
    ("name", "size", "wanted"),
    [
        ("edakari:resnet20", (3, 32, 32), [(16, 32), (32, 16), (64, 8)]),
        ("edakari:fashion_cnn", (1, 28, 28), [(32, 14), (192, 7)]),
        ("edakari:fashion_vit", (1, 28, 28), [(64, 7)]),
        ("timm:mobilenetv2_100", (3, 224, 224), [(24, 56), (32, 28), (96, 14), (1280, 7)]),
        ("timm:swin_tiny_patch4_window7_224", (3, 224, 224), [(96, 56), (192, 28), (384, 14), (768, 7)]),
        ("timm:densenet121", (3, 224, 224), [(128, 56), (256, 28), (512, 14), (1024, 7)]),
    ],
)
def test_maps_are_those_that_papers_name(name: str, size: tuple[int, ...], wanted: list[tuple[int, int]]) -> None:
    assert [(channels, height) for _, channels, height in taps_of(name, size)] == wanted


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "regnety_002"])
def test_maps_are_those_of_features_only(name: str) -> None:
    import timm

    with torch.device("meta"):
        reader = timm.create_model(name, features_only=True)
    wanted = list(zip(reader.feature_info.channels(), reader.feature_info.reduction(), strict=True))[-4:]
    assert [(channels, 224 // side) for _, channels, side in taps_of(f"timm:{name}", (3, 224, 224))] == wanted


def test_a_tapped_network_gives_its_output_and_its_maps() -> None:
    torch.manual_seed(0)
    for name, size in (("edakari:fashion_cnn", (1, 28, 28)), ("edakari:fashion_vit", (1, 28, 28))):
        model, images = edakari.build(name), torch.randn(2, *size)
        taps = find_taps(model, edakari.trace(model, images[:1]))
        with torch.no_grad():
            logits, maps = Tapped(model, taps)(images)
            assert torch.equal(logits, model(images))
        assert [tuple(each.shape) for each in maps] == [(2, tap.channels, tap.height, tap.width) for tap in taps]
        assert not any(module._forward_hooks for module in model.modules())


def test_tokens_lie_on_their_grid() -> None:
    model = edakari.build("edakari:fashion_vit")
    (tap,) = find_taps(model, edakari.trace(model, torch.zeros(1, 1, 28, 28)))
    tokens = torch.arange(50.0).view(1, 50, 1)
    assert tap.prefix == 1
    assert tap.feature_map(tokens)[0, 0, 2, 3] == 1 + 2 * 7 + 3


def test_modules_can_be_named() -> None:
    model = edakari.build("edakari:resnet20")
    graph = edakari.trace(model, torch.zeros(1, 3, 32, 32))
    assert [tap.channels for tap in find_taps(model, graph, ("stages.0", "stages.1"))] == [16, 32]
    with pytest.raises(UnknownName, match=r"did you mean 'stages\.0'"):
        find_taps(model, graph, ("stage.0",))
    with pytest.raises(ModelError, match="'classifier' gives no feature map, but a tensor of shape"):
        find_taps(model, graph, ("classifier",))


def test_a_network_without_maps_is_told() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))
    graph = edakari.trace(flat, torch.zeros(1, 3, 4, 4))
    with pytest.raises(ModelError, match="no module that returns feature maps"):
        find_taps(flat, graph)
    vectors = nn.Linear(4, 2)
    with pytest.raises(ModelError, match=r"take images \[N, C, H, W\]; this one takes \[1, 4\]"):
        find_taps(vectors, edakari.trace(vectors, torch.zeros(1, 4)))
