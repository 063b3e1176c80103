"""The explainer: the decoder half of a U-Net on the feature maps of a trained network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from edakari.models.saliency import Family, Frame, FreeHead, Matching, RadialHead

__all__ = ["Explainer"]

Size = tuple[int, int, int]


class Explainer(nn.Module):
    """Predicts from feature maps and a label where the network looks for that label.

    Ganjdanesh et al., ECCV 2022, section 3. The network is the frozen encoder; only this decoder is trained.

    Args:
        sizes: (channels, height, width) of each feature map, finest first.
        classes: number of labels.
        frame: size of the images.
        family: kind of the masks.
    """

    def __init__(self, sizes: Sequence[Size], classes: int, frame: Frame, family: Family = "rbf") -> None:
        super().__init__()
        self.frame, self.family = frame, family
        self.labels = nn.Embedding(classes, sizes[-1][0])
        pairs = zip(sizes[::-1], sizes[-2::-1], strict=False)
        self.ups = nn.ModuleList(_Up(coarse[0], fine[0]) for coarse, fine in pairs)
        channels, height, width = sizes[0]
        self.head = RadialHead(channels, (height, width), frame) if family == "rbf" else FreeHead(channels, frame)

    def forward(self, features: Sequence[torch.Tensor], labels_N: torch.Tensor) -> torch.Tensor:
        """Compute unbounded explanations, as the head returns them: [N, 3] for radial masks.

        Args:
            features: one feature map [N, C, H, W] for each of the sizes.
            labels_N: labels to explain, int64 [N].
        """
        x_NCHW = features[-1]
        gate_NHW = torch.einsum("nchw,nc->nhw", x_NCHW, self.labels(labels_N))
        x_NCHW = x_NCHW * torch.sigmoid(gate_NHW)[:, None]
        for up, skip in zip(self.ups, features[-2::-1], strict=True):
            x_NCHW = up(x_NCHW, skip)
        raw: torch.Tensor = self.head(x_NCHW)
        return raw

    def mask(self, raw: torch.Tensor) -> torch.Tensor:
        """Compute the masks of explanations, float32 [N, 1, height, width]."""
        return self.head.mask(raw)

    def compared(self, raw: torch.Tensor, matching: Matching) -> torch.Tensor:
        """Return the numbers of explanations by which two networks are compared.

        Args:
            raw: explanations, as `forward` returns them.
            matching: see `Matching`.
        """
        if matching == "raw":
            return raw
        return self.head.normalised(raw) if matching == "normalised" else self.head.shown(raw)


class _Up(nn.Module):
    """Doubles the resolution by pixel shuffle, then applies a residual block to it and the finer map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(_conv(inputs, 4 * outputs, 3), nn.ReLU(), nn.PixelShuffle(2), nn.ReLU())
        self.block = nn.Sequential(_conv(2 * outputs, outputs, 3), nn.ReLU(), _conv(outputs, outputs, 3))
        self.shortcut = _conv(2 * outputs, outputs, 1)

    def forward(self, x_NCHW: torch.Tensor, skip_NCHW: torch.Tensor) -> torch.Tensor:
        """Return a feature map with the skip's size and channels."""
        x_NCHW = self.widen(x_NCHW)
        if x_NCHW.shape[2:] != skip_NCHW.shape[2:]:
            x_NCHW = functional.interpolate(x_NCHW, skip_NCHW.shape[2:], mode="bilinear", align_corners=False)
        x_NCHW = torch.cat([x_NCHW, skip_NCHW], 1)
        merged: torch.Tensor = self.block(x_NCHW) + self.shortcut(x_NCHW)
        return functional.relu(merged)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs))
