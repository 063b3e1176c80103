"""Torchvision's detectors on small backbones, with images and targets; each runs in a fraction of a second."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from edakari.testing import enlivened

__all__ = ["DETECTORS", "detector", "images", "targets"]

SIDE, CLASSES, KEYPOINTS = 64, 3, 5
"""Length of an image's sides in pixels, number of classes with the background, and of an object's keypoints."""

LEVELS = ("0", "1", "2")


def _body(widths: tuple[int, ...]) -> nn.Sequential:
    def stage(inward: int, outward: int) -> nn.Module:
        first = (nn.Conv2d(inward, outward, 3, 2, 1, bias=False), nn.BatchNorm2d(outward), nn.ReLU(inplace=True))
        return nn.Sequential(*first, nn.Conv2d(outward, outward, 3, 1, 1), nn.ReLU(inplace=True))

    return nn.Sequential(*(stage(*pair) for pair in zip((3, *widths[:-1]), widths, strict=True)))


def _pyramid(extra: Any = None, widths: tuple[int, ...] = (8, 12, 16), out: int = 16) -> BackboneWithFPN:
    return BackboneWithFPN(_body(widths), dict(zip(LEVELS, LEVELS, strict=True)), list(widths), out, extra)


def _anchors(levels: int, ratios: tuple[float, ...] = (0.5, 1.0, 2.0)) -> AnchorGenerator:
    return AnchorGenerator(tuple((8 * 2**level,) for level in range(levels)), (ratios,) * levels)


def _pooling(size: int) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(list(LEVELS), size, 2)


def _two_stages(cls: type[nn.Module], head: nn.Module | None = None, **more: Any) -> nn.Module:
    return cls(
        _pyramid(),
        min_size=SIDE,
        max_size=SIDE,
        rpn_anchor_generator=_anchors(4),
        rpn_post_nms_top_n_test=12,
        rpn_post_nms_top_n_train=20,
        rpn_batch_size_per_image=32,
        box_batch_size_per_image=16,
        box_score_thresh=0.0,
        box_detections_per_img=10,
        box_roi_pool=_pooling(3),
        box_head=head or TwoMLPHead(16 * 9, 24),
        box_predictor=FastRCNNPredictor(24, CLASSES),
        **more,
    )


def _mask_rcnn() -> nn.Module:
    heads = {"mask_head": MaskRCNNHeads(16, (12, 12), 1), "mask_predictor": MaskRCNNPredictor(12, 10, CLASSES)}
    return _two_stages(detection.MaskRCNN, mask_roi_pool=_pooling(4), **heads)


def _keypoint_rcnn() -> nn.Module:
    heads = {
        "keypoint_head": KeypointRCNNHeads(16, (12, 12)),
        "keypoint_predictor": KeypointRCNNPredictor(12, KEYPOINTS),
    }
    return _two_stages(detection.KeypointRCNN, keypoint_roi_pool=_pooling(4), num_keypoints=None, **heads)


def _retinanet(norm: Callable[..., nn.Module] | None = None) -> nn.Module:
    return detection.RetinaNet(
        _pyramid(LastLevelP6P7(16, 16)),
        CLASSES,
        min_size=SIDE,
        max_size=SIDE,
        anchor_generator=_anchors(5),
        head=RetinaNetHead(16, 3, CLASSES, norm_layer=norm),
        topk_candidates=100,
    )


def _fcos() -> nn.Module:
    backbone = _pyramid(widths=(8, 12, 32), out=32)  # its head has 32 groups of channels
    backbone.fpn.extra_blocks = None
    return detection.FCOS(backbone, CLASSES, SIDE, SIDE, anchor_generator=_anchors(3, (1.0,)))


class _Maps(nn.Module):
    """A backbone that gives the maps of its stages."""

    out_channels = (8, 12, 16)

    def __init__(self) -> None:
        super().__init__()
        self.body = _body(self.out_channels)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = {}
        for level, stage in zip(LEVELS, self.body, strict=True):
            maps[level] = x = stage(x)
        return maps


def _ssd(lite: bool) -> nn.Module:
    boxes, widths = DefaultBoxGenerator([[2], [2, 3], [2]]), list(_Maps.out_channels)
    norm = functools.partial(nn.BatchNorm2d, eps=1e-3)
    head = SSDLiteHead(widths, boxes.num_anchors_per_location(), CLASSES, norm) if lite else None
    return SSD(_Maps(), boxes, (SIDE, SIDE), CLASSES, head=head, detections_per_img=50)


DETECTORS: Mapping[str, Callable[[], nn.Module]] = {
    "faster r-cnn": lambda: _two_stages(detection.FasterRCNN),
    "faster r-cnn v2": lambda: _two_stages(
        detection.FasterRCNN, FastRCNNConvFCHead((16, 3, 3), [12, 12], [24], norm_layer=nn.BatchNorm2d)
    ),
    "mask r-cnn": _mask_rcnn,
    "keypoint r-cnn": _keypoint_rcnn,
    "retinanet": _retinanet,
    "retinanet v2": lambda: _retinanet(functools.partial(nn.GroupNorm, 4)),
    "fcos": _fcos,
    "ssd": lambda: _ssd(lite=False),
    "ssdlite": lambda: _ssd(lite=True),
}


def detector(name: str) -> nn.Module:
    """A detector in float64 whose losses depend on every layer, and which finds objects in noise."""
    torch.manual_seed(0)
    model = enlivened(DETECTORS[name]())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype) - 0.5
            if parameter.dim() > 1:
                parameter.copy_(noise * (24 / parameter[0].numel()) ** 0.5)  # keeps the variance of what it reads
            elif path.endswith("cls_logits.bias"):
                parameter.copy_(noise)  # it starts where hardly anything is an object
    return model


def images(count: int = 2, seed: int = 0) -> list[torch.Tensor]:
    """Noise, float64 [3, 64, 64] each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, SIDE, SIDE, generator=generator, dtype=torch.float64) for _ in range(count)]


def targets(count: int = 2, seed: int = 0, objects: int = 6) -> list[dict[str, torch.Tensor]]:
    """Boxes, labels, masks and keypoints of each image."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    found = []
    for _ in range(count):
        low = drawn(objects, 2) * SIDE / 2
        sides = SIDE * (0.15 + 0.3 * drawn(objects, 2))
        boxes, masks = torch.cat([low, low + sides], 1), torch.zeros(objects, SIDE, SIDE, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        points = low[:, None] + sides[:, None] * drawn(objects, KEYPOINTS, 2)
        keypoints = torch.cat([points, torch.ones(objects, KEYPOINTS, 1)], 2).float()  # torchvision takes no others
        labels = torch.randint(1, CLASSES, (objects,), generator=generator)
        found.append({"boxes": boxes, "labels": labels, "masks": masks, "keypoints": keypoints})
    return found
