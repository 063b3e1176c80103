"""Losses of explanations: distance between predictions, area and roughness of masks (Ganjdanesh et al., section 3)."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["area", "divergence", "roughness"]

EDGE = 0.3
"""Weight of the image's border in the roughness of a mask."""


def divergence(aim: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """KL(softmax(aim) || softmax(said)), mean over the batch, in float32."""
    aim, said = functional.log_softmax(aim.float(), 1), functional.log_softmax(said.float(), 1)
    return functional.kl_div(said, aim, log_target=True, reduction="batchmean")


def area(sample_N1HW: torch.Tensor, power: float) -> torch.Tensor:
    """Mean over the pixels of (s + 5e-4)^power (equation 9): a soft count of what is shown."""
    return (sample_N1HW + 5e-4).pow(power).mean()


def roughness(sample_N1HW: torch.Tensor) -> torch.Tensor:
    """Half the sum of squared differences between neighbours, and of the border's squares, per mask (equation 9)."""
    s = sample_N1HW
    inside = s.diff(dim=2).square().sum() + s.diff(dim=3).square().sum()
    border = sum(line.square().sum() for line in (s[:, :, 0], s[:, :, -1], s[:, :, :, 0], s[:, :, :, -1]))
    return (inside + EDGE * border) / (2 * len(s))
