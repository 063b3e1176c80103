"""Detectors are exported and timed up to their heads; other networks as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from edakari.export import served, to_onnx
from edakari.export.check import output_tensors

SIDE = 32
PLAIN = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}


class Backbone(nn.Sequential):
    """Features at an eighth of the resolution."""

    def __init__(self, out_channels: Any = 32) -> None:
        self.out_channels = out_channels
        widths = [(3, 4), (4, 8), (8, 32)]
        super().__init__(*(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in widths))


def detector(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "ssd":
        boxes = DefaultBoxGenerator([[2]], scales=[0.2, 0.4])
        return SSD(Backbone([32]), boxes, (SIDE, SIDE), 3, score_thresh=0.0, **PLAIN).eval()
    anchors = AnchorGenerator(((8,),), ((1.0,),))
    family = {"retinanet": RetinaNet, "fcos": FCOS}[kind]
    sizes = {"min_size": SIDE, "max_size": SIDE, "score_thresh": 0.0, **PLAIN}
    return family(Backbone(), 3, anchor_generator=anchors, **sizes).eval()


@pytest.mark.parametrize("kind", ["ssd", "retinanet", "fcos"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_detector_is_served_up_to_its_heads(kind: str, wrapped: bool) -> None:
    model, images = detector(kind), torch.rand(2, 3, SIDE, SIDE)
    network = nn.Sequential(model) if wrapped else model
    with torch.no_grad():
        features = model.backbone(images)
        heads = model.head([features])
        expected = {tuple(each.shape) for each in heads.values()}
        found = list(output_tensors(served(network)(images)))
        before, after = network(images), network(images)
    assert {tuple(each.shape) for each in found} == expected
    for tensor in heads.values():
        assert any(each.shape == tensor.shape and torch.equal(each, tensor) for each in found)
    assert len(before) == 2  # the detector itself still finds boxes
    assert all(torch.equal(one["boxes"], two["boxes"]) for one, two in zip(before, after, strict=True))
    assert {id(each) for each in served(network).parameters()} == {id(each) for each in network.parameters()}


def test_other_networks_are_served_as_they_are() -> None:
    model = Backbone()
    assert served(model) is model


def test_a_detector_is_exported_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    check = to_onnx(detector("ssd"), torch.rand(1, 3, SIDE, SIDE), tmp_path / "ssd.onnx")
    assert check.relative < 1e-4
