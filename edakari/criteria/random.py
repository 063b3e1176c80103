"""Chance, the baseline that every criterion must beat."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.graph import Graph
from edakari.core.protocols import Batch, Task
from edakari.core.space import Scores

__all__ = ["Random"]


@dc.dataclass(frozen=True)
class Random:
    """Uniform random scores.

    Mittal et al., "Recovering from Random Pruning", WACV 2018, on how strong this baseline is.

    Args:
        seed: of a generator of its own, so that the global random state stays as it is.
    """

    seed: int = 0

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch] = (), task: Task | None = None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs neither batches nor a task."""
        require("score(model, graph, batches, task)", graph=(graph, Graph))
        generator = torch.Generator().manual_seed(self.seed)
        return {group.name: torch.rand(group.size, generator=generator, dtype=torch.float64) for group in graph.groups}
