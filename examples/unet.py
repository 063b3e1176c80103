"""A small U-Net for `data.task: segmentation`: `model.name: examples/unet.py:make`; recipes/unet_segmentation.yaml."""

from __future__ import annotations

import torch
from torch import nn


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder, decoder, and what the encoder saw handed over at each resolution (Ronneberger et al., 2015)."""

    def __init__(self, width: int, depth: int, num_classes: int, in_chans: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList([block(a, b) for a, b in zip([in_chans, *widths[:-1]], widths, strict=True)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * each, each, 2, stride=2) for each in widths[-2::-1]])
        self.merge = nn.ModuleList([block(2 * each, each) for each in widths[-2::-1]])
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes, H, W] of images [N, in_chans, H, W], whose sides divide by 2^(depth - 1)."""
        seen: list[torch.Tensor] = []
        features = images
        for level, encode in enumerate(self.down):
            features = encode(nn.functional.max_pool2d(features, 2) if level else features)
            seen.append(features)
        for up, merge, skip in zip(self.up, self.merge, seen[-2::-1], strict=True):
            features = merge(torch.cat([up(features), skip], dim=1))
        logits: torch.Tensor = self.classifier(features)
        return logits


def make(width: int = 16, depth: int = 4, num_classes: int = 2, in_chans: int = 3) -> nn.Module:
    """A U-Net of random weights."""
    return UNet(width, depth, num_classes, in_chans)
