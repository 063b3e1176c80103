"""Losses of explanations: distance between predictions, area and roughness of masks (Ganjdanesh et al., section 3)."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["area", "class_divergence", "divergence", "roughness"]

EDGE = 0.3
"""Weight of the image's border in the roughness of a mask."""


def divergence(aim: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """KL(softmax(aim) || softmax(outputs)), mean over the batch, in float32.

    Args:
        aim: logits of the teacher, [N, classes].
        outputs: logits of the student, [N, classes].
    """
    aim, outputs = functional.log_softmax(aim.float(), 1), functional.log_softmax(outputs.float(), 1)
    return functional.kl_div(outputs, aim, log_target=True, reduction="batchmean")


def class_divergence(aim: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Divergence of each class being there or not, by sigmoids: float32 [N, classes].

    Args:
        aim: logits of the teacher, [N, classes].
        outputs: logits of the student, [N, classes].
    """
    aim, outputs = aim.float(), outputs.float()
    there = aim.sigmoid() * (functional.logsigmoid(aim) - functional.logsigmoid(outputs))
    gone = (-aim).sigmoid() * (functional.logsigmoid(-aim) - functional.logsigmoid(-outputs))
    return there + gone


def area(sample_N1HW: torch.Tensor, power: float) -> torch.Tensor:
    """Mean over the pixels of (s + 5e-4)^power: a soft count of the shown pixels (equation 9).

    Args:
        sample_N1HW: mask of each image, from 0 to 1.
        power: exponent of the pixels.
    """
    return (sample_N1HW + 5e-4).pow(power).mean()


def roughness(sample_N1HW: torch.Tensor) -> torch.Tensor:
    """Half the sum of squared differences between neighbouring pixels and of weighted border squares, per mask.

    This is equation 9 of the paper.

    Args:
        sample_N1HW: mask of each image, from 0 to 1.
    """
    s = sample_N1HW
    inside = s.diff(dim=2).square().sum() + s.diff(dim=3).square().sum()
    border = sum(line.square().sum() for line in (s[:, :, 0], s[:, :, -1], s[:, :, :, 0], s[:, :, :, -1]))
    return (inside + EDGE * border) / (2 * len(s))
