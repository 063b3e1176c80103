"""The geometric median criterion (FPGM)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from edakari.core.graph import Graph, Member
from edakari.core.protocols import Batch, Task
from edakari.core.settings import Count, settings
from edakari.core.space import Scores
from edakari.criteria.reduce import Array, Normalize, channels, counting, group_scores, parameters_of

__all__ = ["GeometricMedian"]

WHOLE = 3
"""Times the sample, up to which a group is compared as a whole."""


@settings
class GeometricMedian:
    """Mean distance of a channel's weights to those of all other channels: a central channel is replaceable.

    He et al., "Filter Pruning via Geometric Median for Deep Neural Networks Acceleration", CVPR 2019, equation 6.
    Distances are divided by the square root of the number of weights, so that all members count equally.

    Args:
        normalize: divide the scores of a group by their "mean", "max" or "sum", so that all groups can be ranked
            together; "none" leaves them.
        sample: number of channels that every channel is compared with, in groups of more than three times as many.
            The mean of the squared distances is exact all the same: with 64, means erred by 0.5 % on random matrices of
            the sizes of convolutions, and by up to 3 % on matrices of rank 3.
    """

    paper: ClassVar[str] = (
        "He et al., Filter Pruning via Geometric Median for Deep Neural Networks Acceleration, CVPR 2019"
    )

    normalize: Normalize = "mean"
    sample: Count = 64

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch] = (), task: Task | None = None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs neither batches nor a task."""
        parameters = parameters_of(model, graph)

        def parts(group: str, size: int) -> list[Array]:
            return [
                _distances(parameters[member.tensor], member, group, size, self.sample)
                for member in counting(graph, group, parameters)
            ]

        with torch.no_grad():
            return group_scores(graph, parts, self.normalize)


def _distances(weight: torch.Tensor, member: Member, group: str, size: int, sample: int) -> Array:
    """Mean distance per weight of each channel to the others, float64 [size]."""
    where = channels(member.layout, group)
    order = torch.from_numpy(np.argsort(where, kind="stable")[int((where < 0).sum()) :]).to(weight.device)
    rows = weight.detach().float().movedim(member.dim, 0)[order].reshape(size, -1)
    means = _exact(rows) if size <= WHOLE * sample else _estimated(rows, sample)
    mean: Array = (means / rows.shape[1] ** 0.5).cpu().numpy()
    return mean


def _exact(rows: torch.Tensor) -> torch.Tensor:
    """Mean distance of each row to the others, float64 [rows]."""
    distances = torch.cdist(rows, rows, compute_mode="use_mm_for_euclid_dist_if_necessary").double().fill_diagonal_(0)
    return distances.sum(1) / max(len(rows) - 1, 1)


def _estimated(rows: torch.Tensor, sample: int) -> torch.Tensor:
    """Mean distance of each row to the others, from its distances to a sample of them, float64 [rows].

    The mean of the squared distances is known exactly. A distance is expanded about the root of this mean: the term of
    first order has mean 0, so that the sample only estimates the small rest.
    """
    size = len(rows)
    rows = rows - rows.mean(0)
    squares = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()
    mean = (size * squares + squares.sum()) / (size - 1)
    picked = torch.from_numpy(np.random.default_rng(0).permutation(size)[:sample]).to(rows.device)
    squared = torch.addmm(squares.float()[:, None] + squares.float()[picked], rows, rows[picked].T, alpha=-2).double()
    root = mean.clamp_min(torch.finfo(torch.float64).tiny).sqrt()[:, None]
    rest = squared.clamp_min(0).sqrt() - (squared / root + root) / 2
    others = picked != torch.arange(size, device=rows.device)[:, None]
    means: torch.Tensor = root[:, 0] + (rest * others).sum(1) / others.sum(1)
    return means
