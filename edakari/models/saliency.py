"""Saliency as masks over the image: radial ones of three numbers each, free ones, random ones, and samples of both.

Ganjdanesh, Gao, Huang, "Interpretations Steered Network Pruning via Amortized Inferred Saliency Maps", ECCV 2022:
where a network looks is a radial basis function over the image, given by its centre and width. Masks are probabilities:
pixels are drawn by them, and what is not drawn becomes 0, the mean colour of a normalised image.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Family", "Frame", "FreeHead", "RadialHead", "random_masks", "relaxed_sample"]

Family = Literal["rbf", "realx"]
"""Kinds of masks: radial ones (ISP), or free ones, drawn pixel by pixel (REAL-X, Jethani et al., 2021)."""

SMALL = 64
"""Images up to so many pixels keep centres 2 pixels off the border; larger ones 4."""
LEAST_WIDTH, MOST_WIDTH = 0.03, 1.0
"""Of a radial mask, as shares of the image's side; beyond them there is nothing to explain."""
FIRST_WIDTH = 0.31
"""Of radial masks before training, as a share of the image's side."""
MOST_GRID = 32
"""Side of the largest map that a radial head reads; larger ones are pooled to it."""


@dc.dataclass(frozen=True, slots=True)
class Frame:
    """The image that masks lie on.

    Args:
        height: rows, in pixels.
        width: columns, in pixels.
    """

    height: int
    width: int

    @property
    def side(self) -> float:
        """What widths are shares of, in pixels."""
        return (self.height + self.width) / 2

    def reach(self, like: torch.Tensor) -> torch.Tensor:
        """How far a centre may lie from the middle along rows and columns, in pixels, float [2]."""
        margin = 2.0 if max(self.height, self.width) <= SMALL else 4.0
        return like.new_tensor([self.height / 2 - margin, self.width / 2 - margin])

    def middle(self, like: torch.Tensor) -> torch.Tensor:
        """The image's middle, in pixels, float [2]."""
        return like.new_tensor([self.height / 2, self.width / 2])

    def radial(self, centre_N2: torch.Tensor, width_N: torch.Tensor) -> torch.Tensor:
        """Radial masks exp(-d^2 / (2 width^2)), 1 at their centre (section 3).

        differs: the authors' code divides a density by its own maximum, which it detaches from the gradient: the values
        are these, but a penalty on the area then makes masks grow.

        Args:
            centre_N2: row and column, in pixels.
            width_N: in pixels, above 0.

        Returns:
            float32 [N, 1, height, width], in (0, 1].
        """
        centre_N2, width_N = centre_N2.float(), width_N.float()
        rows = torch.arange(self.height, device=centre_N2.device) - centre_N2[:, :1]
        columns = torch.arange(self.width, device=centre_N2.device) - centre_N2[:, 1:]
        distance_NHW = rows.square()[:, :, None] + columns.square()[:, None, :]
        return torch.exp(-distance_NHW / (2 * width_N.square()[:, None, None]))[:, None]


class RadialHead(nn.Module):
    """From a decoded feature map to centre and width of a radial mask, as three numbers without bounds.

    Args:
        channels: of the map.
        size: rows and columns of the map.
        frame: of the images.
    """

    def __init__(self, channels: int, size: tuple[int, int], frame: Frame) -> None:
        super().__init__()
        self.frame = frame
        self.grid = (min(size[0], MOST_GRID), min(size[1], MOST_GRID))
        # a convolution whose kernel covers the whole map
        self.linear = nn.Linear(channels * self.grid[0] * self.grid[1], 3)
        # differs: an Adam step moves each of the many weights by the whole rate; unscaled, the first ones would throw
        # the centre into a corner and the width to its bound, where no gradient leads back
        self.scale = self.linear.in_features**-0.5
        with torch.no_grad():
            self.linear.bias[2] = _inverse_softplus(FIRST_WIDTH * frame.side)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Explanations, float32 [N, 3]: row, column and width before they are bounded."""
        pooled = features_NCHW
        if tuple(features_NCHW.shape[2:]) != self.grid:
            pooled = functional.adaptive_avg_pool2d(features_NCHW, self.grid)
        found: torch.Tensor = self.linear(pooled.flatten(1) * self.scale)
        return found.float()

    def centre_and_width(self, raw_N3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Centre [N, 2] and width [N], in pixels."""
        reach, side = self.frame.reach(raw_N3), self.frame.side
        centre_N2 = self.frame.middle(raw_N3) + reach * torch.tanh(raw_N3[:, :2] / reach)
        return centre_N2, functional.softplus(raw_N3[:, 2]).clamp(LEAST_WIDTH * side, MOST_WIDTH * side)

    def mask(self, raw_N3: torch.Tensor) -> torch.Tensor:
        """Masks, float32 [N, 1, height, width]."""
        return self.frame.radial(*self.centre_and_width(raw_N3))

    def normalised(self, raw_N3: torch.Tensor) -> torch.Tensor:
        """Explanations in units that do not depend on the image's size, so that they can be compared."""
        return raw_N3 / torch.cat([self.frame.reach(raw_N3), raw_N3.new_tensor([self.frame.side / 2])])


def _inverse_softplus(value: float) -> float:
    """What softplus takes to this value; exp(value) would overflow for images of 287 pixels and more."""
    return value + math.log(-math.expm1(-value))


class FreeHead(nn.Module):
    """From a decoded feature map to a mask that is free at every pixel, |a| / (|a| + |b|) of two channels (REAL-X).

    Args:
        channels: of the map.
        frame: of the images.
    """

    def __init__(self, channels: int, frame: Frame) -> None:
        super().__init__()
        self.frame = frame
        self.conv = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Explanations, float32 [N, 2, height, width]: the two channels."""
        found: torch.Tensor = self.conv(features_NCHW).float()
        size = (self.frame.height, self.frame.width)
        if found.shape[2:] == size:
            return found
        return functional.interpolate(found, size, mode="bilinear", align_corners=False)

    def centre_and_width(self, raw_N2HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Centre [N, 2] and width [N] of the radial mask with the same mean and spread, in pixels."""
        mask_NHW = self.mask(raw_N2HW)[:, 0]
        share_NHW = mask_NHW / mask_NHW.sum((1, 2), keepdim=True)
        indices = [torch.arange(size, device=share_NHW.device) for size in share_NHW.shape[1:]]
        profiles = [share_NHW.sum(2), share_NHW.sum(1)]
        means = [(profile * index).sum(1) for profile, index in zip(profiles, indices, strict=True)]
        squares = [(profile * index.square()).sum(1) for profile, index in zip(profiles, indices, strict=True)]
        variance_N = sum(square - mean.square() for square, mean in zip(squares, means, strict=True)) / 2
        return torch.stack(means, 1), torch.as_tensor(variance_N).sqrt()

    def mask(self, raw_N2HW: torch.Tensor) -> torch.Tensor:
        """Masks, float32 [N, 1, height, width]."""
        strength_N2HW = raw_N2HW.abs()
        return strength_N2HW[:, :1] / (strength_N2HW.sum(1, keepdim=True) + 1e-8)

    def normalised(self, raw_N2HW: torch.Tensor) -> torch.Tensor:
        """The masks themselves, since they are what can be compared."""
        return self.mask(raw_N2HW)


def random_masks(
    count: int, frame: Frame, widths: tuple[float, float], family: Family, like: torch.Tensor
) -> torch.Tensor:
    """Masks by chance, of the family that an explainer's masks come from (section 3).

    Args:
        count: of masks.
        frame: of the images.
        widths: least and largest width of radial masks, as shares of the image's side.
        family: "rbf" draws centres and widths uniformly, "realx" is one half everywhere.
        like: gives device.

    Returns:
        float32 [count, 1, height, width].
    """
    if family == "realx":
        return torch.full((count, 1, frame.height, frame.width), 0.5, device=like.device)
    place_N3 = torch.rand(count, 3, device=like.device)
    centre_N2 = frame.middle(place_N3) + frame.reach(place_N3) * (2 * place_N3[:, :2] - 1)
    return frame.radial(centre_N2, frame.side * (widths[0] + (widths[1] - widths[0]) * place_N3[:, 2]))


def relaxed_sample(probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Samples of Bernoulli variables, relaxed so that gradients reach the probabilities (Maddison et al., 2017).

    Args:
        probabilities: float [...].
        temperature: above 0; the smaller, the nearer samples lie to 0 and 1.

    Returns:
        float32 [...], in (0, 1).
    """
    p = probabilities.float().clamp(1e-6, 1 - 1e-6)
    u = torch.rand_like(p).clamp(1e-6, 1 - 1e-6)
    return torch.sigmoid((p.logit() + u.logit()) / temperature)
