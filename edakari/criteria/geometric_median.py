"""The geometric median criterion (FPGM)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from edakari.core.graph import Graph, Member
from edakari.core.protocols import Batch, Task
from edakari.core.settings import settings
from edakari.core.space import Scores
from edakari.criteria.reduce import Array, Normalize, channels, counting, group_scores, parameters_of

__all__ = ["GeometricMedian"]


@settings
class GeometricMedian:
    """Mean distance of a channel's weights to those of all other channels: a central channel is replaceable.

    He et al., "Filter Pruning via Geometric Median for Deep Neural Networks Acceleration", CVPR 2019, equation 6.
    Distances are divided by the square root of the number of weights, so that all members count equally.

    Args:
        normalize: see `edakari.criteria.reduce.group_scores`.
    """

    paper: ClassVar[str] = (
        "He et al., Filter Pruning via Geometric Median for Deep Neural Networks Acceleration, CVPR 2019"
    )

    normalize: Normalize = "mean"

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch] = (), task: Task | None = None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs neither batches nor a task."""
        parameters = parameters_of(model, graph)

        def parts(group: str, size: int) -> list[Array]:
            return [
                _distances(parameters[member.tensor], member, group, size)
                for member in counting(graph, group, parameters)
            ]

        with torch.no_grad():
            return group_scores(graph, parts, self.normalize)


def _distances(weight: torch.Tensor, member: Member, group: str, size: int) -> Array:
    """Mean distance per weight of each channel to the others, float64 [size]."""
    where = channels(member.layout, group)
    order = torch.from_numpy(np.argsort(where, kind="stable")[int((where < 0).sum()) :]).to(weight.device)
    rows = weight.detach().float().movedim(member.dim, 0)[order].reshape(size, -1)
    distances = torch.cdist(rows, rows, compute_mode="use_mm_for_euclid_dist_if_necessary").double().fill_diagonal_(0)
    mean: Array = (distances.sum(1) / (max(size - 1, 1) * rows.shape[1] ** 0.5)).cpu().numpy()
    return mean
