"""A small U-Net whose map is averaged to logits, so that a task of classes can run it."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["unet"]


class UNet(nn.Module):
    """Three levels; each level up gets the features of its level down.

    Args:
        num_classes: channels of the map.
        width: channels of the first level; they double at each level down.
        channels: channels of images.
    """

    def __init__(self, num_classes: int, width: int = 32, channels: int = 3) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([channels, *widths], widths, strict=False))
        self.middle = _block(widths[-1], 8 * width)
        ups = zip([8 * width, *widths[:0:-1]], widths[::-1], strict=True)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in ups)
        self.join = nn.ModuleList(_block(2 * each, each) for each in widths[::-1])
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, float [batch, classes], of images, float [batch, channels, height, width]; sides divide by 8."""
        levels = []
        for down in self.down:
            images = down(images)
            levels.append(images)
            images = nn.functional.max_pool2d(images, 2)
        images = self.middle(images)
        for up, join, level in zip(self.up, self.join, reversed(levels), strict=True):
            images = join(torch.cat([up(images), level], dim=1))
        logits: torch.Tensor = self.head(images).mean(dim=(2, 3))
        return logits


def unet(num_classes: int = 10) -> nn.Module:
    """Build the U-Net."""
    return UNet(num_classes)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    convolutions = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.Conv2d(outputs, outputs, 3, padding=1)]
    return nn.Sequential(
        convolutions[0], nn.BatchNorm2d(outputs), nn.ReLU(), convolutions[1], nn.BatchNorm2d(outputs), nn.ReLU()
    )
