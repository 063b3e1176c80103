"""What the tables of networks are made of: functions that build a network and its example."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["Builder", "Built", "image", "of_class", "volume"]

Built = tuple[nn.Module, Any]
"""A network, on meta under `torch.device("meta")`, and its example input on the CPU."""

Builder = Callable[[], Built]


def image(side: int, channels: int = 3, images: int = 1) -> torch.Tensor:
    """A batch of square images."""
    return torch.zeros(images, channels, side, side)


def volume(side: int, channels: int = 1) -> torch.Tensor:
    """A cube of voxels."""
    return torch.zeros(1, channels, side, side, side)


def of_class(module: str, name: str, example: Callable[[], Any], /, *args: Any, **options: Any) -> Builder:
    """Builds a class of a module, which is imported when it is needed."""

    def build() -> Built:
        made: nn.Module = getattr(importlib.import_module(module), name)(*args, **options)
        with torch.device("cpu"):  # the values of whole numbers matter
            return made.eval(), example()

    return build
