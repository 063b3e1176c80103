"""A cost as a differentiable function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from edakari.core.protocols import Cost
from edakari.core.space import Group, legal_sizes

__all__ = ["smooth_total"]


def smooth_total(cost: Cost, groups: Sequence[Group], sizes_G: torch.Tensor) -> torch.Tensor:
    """Compute a cost at sizes that have a gradient.

    The cost's curve of each group is interpolated linearly between its legal sizes, while the other groups keep their
    sizes. At legal sizes the value is exact. The gradient is exact too for a group that multiplies the rest, as in
    multiply-accumulates.

    Args:
        cost: cost of a network.
        groups: groups of the network; all others are unpruned.
        sizes_G: size of each group, float [groups], not above its full size.

    Returns:
        A scalar in the cost's unit, float32.
    """
    found: torch.Tensor = _Total.apply(sizes_G, cost, tuple(groups))
    return found


class _Total(torch.autograd.Function):
    """The total at the nearest legal sizes, and from there along the slopes of the curves."""

    @staticmethod
    def forward(ctx: Any, sizes_G: torch.Tensor, cost: Cost, groups: tuple[Group, ...]) -> torch.Tensor:
        asked = sizes_G.detach().cpu().double().numpy()
        legal = [np.array(legal_sizes(group)) for group in groups]
        indices = [int(np.abs(choices - size).argmin()) for choices, size in zip(legal, asked, strict=True)]
        near = {group.name: int(choices[at]) for group, choices, at in zip(groups, legal, indices, strict=True)}
        slopes = np.zeros(len(groups))
        for index, (group, choices, at) in enumerate(zip(groups, legal, indices, strict=True)):
            low, high = (int(choices[max(at - 1, 0)]), int(choices[min(at + 1, len(choices) - 1)]))
            if low < high:
                ends = [cost.total({**near, group.name: size}) for size in (low, high)]
                slopes[index] = (ends[1] - ends[0]) / (high - low)
        ctx.slopes = slopes
        rest = asked - np.array(list(near.values()), dtype=np.float64)
        return sizes_G.new_tensor(cost.total(near) + float(slopes @ rest), dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient * gradient.new_tensor(ctx.slopes), None, None
