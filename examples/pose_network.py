"""A network for `data.task: pose`, of any features in timm: `model.name: examples/pose_network.py:make`.

See recipes/coco_pose_hrnet.yaml.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn


class PoseNetwork(nn.Module):
    """One heatmap for each keypoint, of the features of highest resolution with those of lower ones added."""

    def __init__(self, features: nn.Module, channels: list[int], width: int, joints: int) -> None:
        super().__init__()
        self.features = features
        self.lateral = nn.ModuleList([nn.Conv2d(each, width, 1) for each in channels])
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, joints, 1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Heatmaps [N, joints, H / 4, W / 4] of images [N, 3, H, W]."""
        levels = [lateral(level) for lateral, level in zip(self.lateral, self.features(images), strict=True)]
        merged = levels[0]
        for level in levels[1:]:
            merged = merged + nn.functional.interpolate(level, merged.shape[-2:], mode="bilinear", align_corners=False)
        heatmaps: torch.Tensor = self.head(merged.relu())
        return heatmaps


def make(
    features: str = "hrnet_w18_small", joints: int = 17, width: int = 64, pretrained: bool = False, **options: Any
) -> nn.Module:
    """The network; its features have random weights, or timm's.

    Args:
        features: name of a network in timm.
        joints: number of keypoints.
        width: channels of the features that are added.
        pretrained: whether the features have timm's weights.
        options: further arguments of timm's function.
    """
    found = timm.create_model(features, features_only=True, pretrained=pretrained, **options)
    strides = found.feature_info.reduction()
    indices = [index for index, stride in enumerate(strides) if stride >= 4]
    found = timm.create_model(features, features_only=True, pretrained=pretrained, out_indices=indices, **options)
    return PoseNetwork(found, found.feature_info.channels(), width, joints)


def example() -> torch.Tensor:
    """The input that `edakari inspect examples/pose_network.py:make` takes."""
    return torch.zeros(1, 3, 256, 192)
