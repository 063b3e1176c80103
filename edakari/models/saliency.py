"""Saliency masks over an image: radial masks of three numbers, masks per pixel, random masks, and samples of them.

Ganjdanesh, Gao, Huang, "Interpretations Steered Network Pruning via Amortized Inferred Saliency Maps", ECCV 2022. A
radial basis function with a centre and a width describes where a network looks. A mask is the probability of keeping
each pixel. Other pixels become 0, the mean colour of a normalised image.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Family", "Frame", "FreeHead", "Matching", "RadialHead", "random_masks", "relaxed_sample"]

Family = Literal["rbf", "realx"]
"""Kinds of masks: radial ("rbf", ISP), or one value per pixel ("realx", REAL-X, Jethani et al., 2021)."""

Matching = Literal["normalised", "raw", "shown"]
"""What of two explanations is compared: a head's outputs as fractions of the image ("normalised") or as they are
("raw"), or what a mask shows: its centre and width as fractions of the image, or its pixels ("shown")."""

SMALL = 64
"""Images up to this side are treated as those of CIFAR, larger ones as those of ImageNet."""
LEAST_WIDTH, MOST_WIDTH = 0.03, 1.0
"""Width limits of a radial mask, as fractions of the image's side; beyond them a mask explains nothing."""
FIRST_WIDTHS = (10 / 32, 100 / 224)
"""Width of radial masks before training, as fractions of the side of small and of larger images."""
RANDOM_WIDTHS = ((5 / 32, 11 / 32), (80 / 224, 100 / 224))
"""Smallest and largest width of random masks, as fractions of the side of small and of larger images."""
MOST_GRID = 32
"""Side of the largest feature map that a radial head reads; larger maps are pooled to it."""


@dc.dataclass(frozen=True, slots=True)
class Frame:
    """Size of the image that masks cover.

    Args:
        height: height in pixels.
        width: width in pixels.
    """

    height: int
    width: int

    @property
    def side(self) -> float:
        """The side that widths are fractions of, in pixels."""
        return (self.height + self.width) / 2

    @property
    def small(self) -> bool:
        """Whether the authors' settings for CIFAR apply, and not those for ImageNet."""
        return max(self.height, self.width) <= SMALL

    @property
    def first_width(self) -> float:
        """Width of radial masks before training, in pixels."""
        return FIRST_WIDTHS[not self.small] * self.side

    @property
    def random_widths(self) -> tuple[float, float]:
        """Smallest and largest width of random masks by default, as fractions of the side."""
        return RANDOM_WIDTHS[not self.small]

    def reach(self, like: torch.Tensor) -> torch.Tensor:
        """Return the largest distance of a centre from the middle along rows and columns, in pixels, float [2]."""
        margin = 2.0 if self.small else 4.0
        return like.new_tensor([self.height / 2 - margin, self.width / 2 - margin])

    def middle(self, like: torch.Tensor) -> torch.Tensor:
        """Return the middle of the image in pixels, float [2]."""
        return like.new_tensor([self.height / 2, self.width / 2])

    def radial(self, centre_N2: torch.Tensor, width_N: torch.Tensor) -> torch.Tensor:
        """Compute radial masks exp(-d^2 / (2 width^2)), which are 1 at their centre (section 3).

        differs: the authors' code divides a density by its own maximum, detached from the gradient. The values are the
        same, but a penalty on the area then makes masks grow.

        Args:
            centre_N2: row and column of the centres, in pixels, [N, 2].
            width_N: widths in pixels, above 0, [N].

        Returns:
            float32 [N, 1, height, width], in (0, 1].
        """
        centre_N2, width_N = centre_N2.float(), width_N.float()
        rows = torch.arange(self.height, device=centre_N2.device) - centre_N2[:, :1]
        columns = torch.arange(self.width, device=centre_N2.device) - centre_N2[:, 1:]
        distance_NHW = rows.square()[:, :, None] + columns.square()[:, None, :]
        return torch.exp(-distance_NHW / (2 * width_N.square()[:, None, None]))[:, None]


class RadialHead(nn.Module):
    """Predicts the centre and width of a radial mask from a decoded feature map, as three unbounded numbers.

    Args:
        channels: channels of the feature map.
        size: height and width of the feature map.
        frame: size of the images.
    """

    def __init__(self, channels: int, size: tuple[int, int], frame: Frame) -> None:
        super().__init__()
        self.frame = frame
        self.grid = (min(size[0], MOST_GRID), min(size[1], MOST_GRID))
        # a convolution whose kernel covers the complete map
        self.linear = nn.Linear(channels * self.grid[0] * self.grid[1], 3)
        # differs: an Adam step moves each of the many weights by the full rate. Without scaling, the first steps would
        # move the centre into a corner and the width to its bound, where the gradient vanishes.
        self.scale = self.linear.in_features**-0.5
        with torch.no_grad():
            self.linear.bias[2] = _inverse_softplus(frame.first_width)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Compute explanations, float32 [N, 3]: unbounded row, column and width."""
        pooled = features_NCHW
        if tuple(features_NCHW.shape[2:]) != self.grid:
            pooled = functional.adaptive_avg_pool2d(features_NCHW, self.grid)
        found: torch.Tensor = self.linear(pooled.flatten(1) * self.scale)
        return found.float()

    def centre_and_width(self, raw_N3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the centre [N, 2] and width [N] in pixels."""
        reach, side = self.frame.reach(raw_N3), self.frame.side
        centre_N2 = self.frame.middle(raw_N3) + reach * torch.tanh(raw_N3[:, :2] / reach)
        return centre_N2, functional.softplus(raw_N3[:, 2]).clamp(LEAST_WIDTH * side, MOST_WIDTH * side)

    def mask(self, raw_N3: torch.Tensor) -> torch.Tensor:
        """Masks, float32 [N, 1, height, width]."""
        return self.frame.radial(*self.centre_and_width(raw_N3))

    def normalised(self, raw_N3: torch.Tensor) -> torch.Tensor:
        """Return explanations in units that do not depend on the image's size, so that they can be compared."""
        return raw_N3 / self._units(raw_N3)

    def shown(self, raw_N3: torch.Tensor) -> torch.Tensor:
        """Return centres and widths in the same units, as the paper's figure compares them."""
        centre_N2, width_N = self.centre_and_width(raw_N3)
        return torch.cat([centre_N2, width_N[:, None]], 1) / self._units(raw_N3)

    def _units(self, like: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.frame.reach(like), like.new_tensor([self.frame.side / 2])])


def _inverse_softplus(value: float) -> float:
    """Inverse of softplus; exp(value) would overflow for images of 287 pixels and more."""
    return value + math.log(-math.expm1(-value))


class FreeHead(nn.Module):
    """Predicts one mask value per pixel, |a| / (|a| + |b|) of two channels, from a decoded feature map (REAL-X).

    Args:
        channels: channels of the feature map.
        frame: size of the images.
    """

    def __init__(self, channels: int, frame: Frame) -> None:
        super().__init__()
        self.frame = frame
        self.conv = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        """Compute explanations, float32 [N, 2, height, width]: the two channels."""
        found: torch.Tensor = self.conv(features_NCHW).float()
        size = (self.frame.height, self.frame.width)
        if found.shape[2:] == size:
            return found
        return functional.interpolate(found, size, mode="bilinear", align_corners=False)

    def centre_and_width(self, raw_N2HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the centre [N, 2] and width [N] in pixels of the radial mask with the same mean and spread."""
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
        """Return the masks themselves, which can be compared."""
        return self.mask(raw_N2HW)

    def shown(self, raw_N2HW: torch.Tensor) -> torch.Tensor:
        """Return the masks, as these are what is shown."""
        return self.mask(raw_N2HW)


def random_masks(
    count: int, frame: Frame, widths: tuple[float, float], family: Family, like: torch.Tensor
) -> torch.Tensor:
    """Draw random masks of an explainer's family (section 3).

    Args:
        count: number of masks.
        frame: size of the images.
        widths: smallest and largest width of radial masks, as fractions of the image's side.
        family: "rbf" draws centres and widths uniformly; "realx" masks are 0.5 everywhere.
        like: tensor that gives the device.

    Returns:
        float32 [count, 1, height, width].
    """
    if family == "realx":
        return torch.full((count, 1, frame.height, frame.width), 0.5, device=like.device)
    place_N3 = torch.rand(count, 3, device=like.device)
    centre_N2 = frame.middle(place_N3) + frame.reach(place_N3) * (2 * place_N3[:, :2] - 1)
    return frame.radial(centre_N2, frame.side * (widths[0] + (widths[1] - widths[0]) * place_N3[:, 2]))


def relaxed_sample(probabilities: torch.Tensor, temperature: float, hard: bool = False) -> torch.Tensor:
    """Draw relaxed Bernoulli samples through which gradients reach the probabilities (Maddison et al., 2017).

    Args:
        probabilities: probabilities, float [...].
        temperature: temperature above 0; smaller values give samples closer to 0 and 1.
        hard: round the samples to 0 and 1, with the gradient of the samples that are not rounded.

    Returns:
        float32 [...], in (0, 1).
    """
    p = probabilities.float().clamp(1e-6, 1 - 1e-6)
    u = torch.rand_like(p).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((p.logit() + u.logit()) / temperature)
    return soft - soft.detach() + (soft.detach() >= 0.5).to(soft) if hard else soft
