"""Which classes of which images are explained, where an image has one class or several."""

from __future__ import annotations

import dataclasses as dc

import torch

__all__ = ["Asked", "asked"]


@dc.dataclass(frozen=True)
class Asked:
    """Pairs of an image and one of its classes; P pairs of N images, in the order of the images.

    Args:
        rows: index of each pair's image, int64 [P].
        classes: class of each pair, int64 [P].
        weights: weight of each pair in a mean in which all images with a class count alike, float32 [P].
        several: whether images have several classes.
    """

    rows: torch.Tensor
    classes: torch.Tensor
    weights: torch.Tensor
    several: bool

    def images(self, values: torch.Tensor) -> torch.Tensor:
        """Return the entries of each pair's image, [P, ...], of values [N, ...]."""
        return values[self.rows] if self.several else values

    def mean(self, values_P: torch.Tensor) -> torch.Tensor:
        """Mean of values over the classes of an image, and then over the images."""
        return (values_P * self.weights.to(values_P)).sum()


def asked(labels: torch.Tensor) -> Asked:
    """Return the pairs of images and classes that labels ask to explain.

    An image without a class has a pair of weight 0, so that no batch is empty.

    Args:
        labels: class of each image, int64 [N], or 0 and 1 for each class, [N, classes].
    """
    if labels.ndim == 1:
        rows = torch.arange(len(labels), device=labels.device)
        return Asked(rows, labels, torch.full((len(labels),), 1 / len(labels), device=labels.device), False)
    there = labels > 0
    counts = there.sum(1)
    pairs = there.clone()
    pairs[:, 0] |= counts == 0
    rows, classes = pairs.nonzero().unbind(1)
    weights = there[rows, classes].float() / counts[rows].clamp(min=1)
    return Asked(rows, classes, weights / weights.sum().clamp(min=1.0), True)
