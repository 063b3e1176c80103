"""Factors on tensors whose gradients are not those of a product."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

__all__ = ["Rescaled", "Straight"]


class Straight(torch.autograd.Function):
    """Masked forward; the gradient passes as though there were no mask (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The tensor times the mask."""
        return x * mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient as it is; the mask gets none."""
        return gradient, None


class Rescaled(torch.autograd.Function):
    """Scaled forward; its gradient is divided by the scale: a step moves the scaled figure as it would itself."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        """The tensor times the scale."""
        ctx.scale = scale
        return x * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient over the scale; zero where the scale is."""
        return gradient / ctx.scale if ctx.scale > 0 else torch.zeros_like(gradient), None
