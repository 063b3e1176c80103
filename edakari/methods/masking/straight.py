"""Products whose gradients differ from those of a product."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

__all__ = ["Rescaled", "Straight"]


class Straight(torch.autograd.Function):
    """A mask with a straight-through gradient: it passes as if there were no mask (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the tensor times the mask."""
        return x * mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient unchanged; the mask gets none."""
        return gradient, None


class Rescaled(torch.autograd.Function):
    """A scale whose gradient is divided by it, so that a step moves the product as if there were no scale."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        """Return the tensor times the scale."""
        ctx.scale = scale
        return x * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient divided by the scale; zero if the scale is zero."""
        return gradient / ctx.scale if ctx.scale > 0 else torch.zeros_like(gradient), None
