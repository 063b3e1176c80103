"""A criterion of one's own: the largest weight of the layers that produce a channel."""

import torch

from edakari.core.settings import Positive, settings


@settings
class LargestWeight:
    """The largest absolute weight of a channel, to some power."""

    power: Positive = 1.0

    def score(self, model, graph, batches=(), task=None):
        weights, scores = dict(model.named_parameters()), {}
        for group in graph.groups:
            scores[group.name] = torch.zeros(group.size, dtype=torch.float64)
            for member in graph.members(group.name):
                weight = weights.get(member.tensor)
                if weight is not None and weight.dim() > 1 and weight.shape[member.dim] == group.size:
                    largest = weight.detach().abs().movedim(member.dim, 0).flatten(1).amax(1).double()
                    scores[group.name] = torch.maximum(scores[group.name], largest**self.power)
        return scores
