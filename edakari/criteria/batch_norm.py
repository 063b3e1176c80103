"""The batch normalisation scale criterion (Network Slimming)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edakari.core.graph import Graph
from edakari.core.networks import unwrapped
from edakari.core.protocols import Batch, Task
from edakari.core.settings import settings
from edakari.core.space import Scores
from edakari.criteria.magnitude import Magnitude
from edakari.criteria.reduce import Array, Normalize, group_scores, normalized, parameters_of, per_channel

__all__ = ["BatchNormScale"]


@settings
class BatchNormScale:
    """Mean absolute scale of a channel in the batch normalisations that it passes through.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017. Some groups pass
    through no batch normalisation with a scale, for instance in transformers. They are scored by L2 `Magnitude`,
    rescaled to the mean score of the other groups.

    Args:
        normalize: divide the scores of a group by their "mean", "max" or "sum", so that all groups can be ranked
            together; "none" leaves them. The paper ranks raw scales ("none"). These compare
            across layers only after training with the paper's L1 penalty.
    """

    paper: ClassVar[str] = "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017"

    normalize: Normalize = "mean"

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch] = (), task: Task | None = None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs neither batches nor a task."""
        model = unwrapped(model, "score(model, graph, batches, task)")
        scales = {
            f"{name}.weight" if name else "weight"
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, _BatchNorm)
        }
        parameters = parameters_of(model, graph)

        def parts(group: str, size: int) -> list[Array]:
            found = []
            for member in graph.members(group):
                if member.tensor in scales and member.tensor in parameters:
                    scale = parameters[member.tensor].detach().abs().double().cpu().numpy()
                    sums = per_channel(member, group, size, scale)
                    found.append(sums / per_channel(member, group, size, np.ones(len(scale))))
            return found

        bare = {group.name for group in graph.groups if not parts(group.name, group.size)}
        scores = group_scores(graph, parts, "none")
        if bare:
            means = [float(score.mean()) for name, score in scores.items() if name not in bare]
            typical = float(np.mean(means)) if means else 1.0
            fallback = Magnitude(p=2).score(model, graph)
            scores |= {name: fallback[name] * typical for name in bare}
        return normalized(scores, self.normalize)
