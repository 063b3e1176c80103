"""Random scores: the baseline that every criterion must beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.graph import Graph
from edakari.core.protocols import Batch, Task
from edakari.core.settings import Seed, settings
from edakari.core.space import Scores

__all__ = ["Random"]


@settings
class Random:
    """Uniform random scores.

    Mittal et al., "Recovering from Random Pruning", WACV 2018, show how strong this baseline is.

    Args:
        seed: seed of a separate generator, so that the global random state does not change. None takes the seed of the
            job, or 0 without a job.
    """

    paper: ClassVar[str] = "Mittal et al., Recovering from Random Pruning, WACV 2018"

    seed: Seed | None = None

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch] = (), task: Task | None = None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs neither batches nor a task."""
        require("score(model, graph, batches, task)", graph=(graph, Graph))
        generator = torch.Generator().manual_seed(self.seed or 0)
        return {group.name: torch.rand(group.size, generator=generator, dtype=torch.float64) for group in graph.groups}
