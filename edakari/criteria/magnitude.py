"""The weight magnitude criterion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.protocols import Batch, Task
from edakari.core.settings import settings
from edakari.core.space import Scores
from edakari.criteria.reduce import (
    Array,
    Normalize,
    counting,
    group_scores,
    parameters_of,
    per_channel,
    sum_along,
)

__all__ = ["Magnitude"]


@settings
class Magnitude:
    """Mean absolute (p = 1) or root mean square (p = 2) weight of a channel.

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017. The paper sums over a filter. The mean gives the
    same ranking within a layer, and members with few and with many weights per channel count equally.

    Args:
        p: order of the norm.
        normalize: divide the scores of a group by their "mean", "max" or "sum", so that all groups can be ranked
            together; "none" leaves them.
    """

    paper: ClassVar[str] = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017"

    p: Literal[1, 2] = 2
    normalize: Normalize = "mean"

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch] = (), task: Task | None = None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs neither batches nor a task."""
        parameters = parameters_of(model, graph)
        members = {group.name: counting(graph, group.name, parameters) for group in graph.groups}
        wanted: dict[str, set[int]] = {}
        for member in (member for found in members.values() for member in found):
            wanted.setdefault(member.tensor, set()).add(member.dim)
        with torch.no_grad():
            along = {
                (name, dim): sums
                for name, dims in wanted.items()
                for dim, sums in _power_sums(parameters[name], dims, self.p).items()
            }

        def parts(group: str, size: int) -> list[Array]:
            found = []
            for member in members[group]:
                sums = per_channel(member, group, size, along[member.tensor, member.dim])
                share = parameters[member.tensor].shape[member.dim] / parameters[member.tensor].numel()
                repeats = per_channel(member, group, size, np.ones(parameters[member.tensor].shape[member.dim]))
                mean = sums * share / repeats
                found.append(mean if self.p == 1 else np.sqrt(mean))
            return found

        return group_scores(graph, parts, self.normalize)


def _power_sums(weight: torch.Tensor, dims: Iterable[int], p: int) -> dict[int, Array]:
    """Sum of |w|^p over all dimensions but one, for each of some dimensions, float64 [positions]."""
    weight = weight.detach().float() if weight.dtype != torch.float64 else weight.detach()
    powers = weight.abs() if p == 1 else weight * weight
    return {dim: sum_along(powers, dim).double().cpu().numpy() for dim in dims}
