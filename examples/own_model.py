"""A network of one's own in a recipe: `model.name: examples/own_model.py:make`.

Any function that gives a `torch.nn.Module` will do. Its keyword arguments are what stands in the recipe under
`model.options`; its weights come from the safetensors file that `model.weights` names.
"""

from __future__ import annotations

import torch
from torch import nn


class TwoPaths(nn.Module):
    """Two convolutions of different reach, side by side."""

    def __init__(self, width: int, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(in_chans, width, 3, stride=2, padding=1)
        self.far = nn.Conv2d(in_chans, width, 7, stride=2, padding=3)
        self.norm = nn.BatchNorm2d(2 * width)
        self.mix = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of images [N, in_chans, H, W]."""
        features = torch.cat([self.near(images), self.far(images)], dim=1)
        features = self.mix(self.norm(features).relu()).relu()
        logits: torch.Tensor = self.classifier(features.mean((2, 3)))
        return logits


def make(width: int = 16, num_classes: int = 10, in_chans: int = 1) -> nn.Module:
    """The network with random weights."""
    return TwoPaths(width, num_classes, in_chans)


def example() -> torch.Tensor:
    """The input that `edakari inspect examples/own_model.py:make` takes."""
    return torch.zeros(1, 1, 28, 28)
