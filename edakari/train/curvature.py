"""Curvature of the loss: the extreme eigenvalues of its Hessian, by Lanczos on Hessian-vector products."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence

import torch

__all__ = ["Curvature", "curvature"]

ENOUGH = 1e-10
"""A new direction shorter than this fraction of the largest eigenvalue so far means the space is exhausted."""

Product = Callable[[torch.Tensor], torch.Tensor]


@dc.dataclass(frozen=True, slots=True)
class Curvature:
    """Smallest and largest eigenvalue of a Hessian."""

    smallest: float
    largest: float

    @property
    def condition(self) -> float:
        """|smallest| / |largest| eigenvalue: 0 is a bowl, 1 a saddle that falls as steeply as it rises.

        The EKG paper does not define its condition number; its values of 0 to 0.62 fit this definition.
        """
        return abs(self.smallest) / max(abs(self.largest), 1e-30)


def curvature(
    losses: Sequence[Callable[[], torch.Tensor]], params: Sequence[torch.Tensor], *, steps: int = 30, seed: int = 0
) -> Curvature:
    """Estimate the smallest and largest eigenvalue of the Hessian of a sum of losses.

    Lanczos with full reorthogonalisation (Golub and Van Loan, Matrix Computations, section 10.3).

    Args:
        losses: functions that each run a forward pass and return a scalar; called one by one to save memory.
        params: the parameters to differentiate by.
        steps: largest number of Lanczos steps.
        seed: seed of the first direction.
    """
    size = sum(param.numel() for param in params)
    generator = torch.Generator().manual_seed(seed)
    product = _hessian_product(losses, params)
    direction = torch.randn(size, generator=generator, dtype=torch.float64)
    basis = [direction / direction.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, size)):
        found = product(basis[-1])
        diagonal.append(float(found @ basis[-1]))
        for _ in range(2):  # one pass leaves rounding errors
            for earlier in basis:
                found = found - (found @ earlier) * earlier
        length = float(found.norm())
        if length <= ENOUGH * max(1.0, *map(abs, diagonal)) or len(diagonal) == min(steps, size):
            break
        beside.append(length)
        basis.append(found / length)
    side = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    eigenvalues = torch.linalg.eigvalsh(tridiagonal + torch.diag(side, 1) + torch.diag(side, -1))
    return Curvature(float(eigenvalues[0]), float(eigenvalues[-1]))


def _hessian_product(losses: Sequence[Callable[[], torch.Tensor]], params: Sequence[torch.Tensor]) -> Product:
    def product(vector: torch.Tensor) -> torch.Tensor:
        parts = torch.split(vector, [param.numel() for param in params])
        along = [part.view(param.shape).to(param) for part, param in zip(parts, params, strict=True)]
        total = torch.zeros_like(vector)
        for loss in losses:
            with torch.enable_grad():
                gradients = torch.autograd.grad(loss(), params, create_graph=True)
                slope = torch.stack([(g * v).sum() for g, v in zip(gradients, along, strict=True)]).sum()
                second = torch.autograd.grad(slope, params, allow_unused=True)
            flat = [
                torch.zeros_like(param) if found is None else found for param, found in zip(params, second, strict=True)
            ]
            total += torch.cat([each.reshape(-1) for each in flat]).double().cpu()
        return total

    return product
