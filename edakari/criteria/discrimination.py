"""Feature discrimination: whether the images that excite a filter most are of few classes or of all."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.protocols import Batch, Task
from edakari.core.settings import settings
from edakari.core.space import Scores
from edakari.criteria.magnitude import Magnitude
from edakari.criteria.ranking import Strongest
from edakari.criteria.reduce import Array, Normalize, group_scores, normalized
from edakari.criteria.responses import FilterResponses, ResponseSettings, collect_responses
from edakari.graph.layer_outputs import LayerOutput

__all__ = ["Discriminated", "FeatureDiscrimination", "Histogram", "Measure", "class_shares", "discriminate", "entropy"]

Histogram = Literal["counts", "responses"]
"""What an image adds to its class: one, or its response."""

Measure = Literal["entropy", "variance", "peak"]
"""What says how peaked a histogram is; the paper's is its entropy."""

DIGITS = 9
"""Of an importance that count; what lies behind is the order of a sum."""


@dc.dataclass(frozen=True)
class Discriminated:
    """How well the filters of a group at one layer output tell classes apart.

    Args:
        rfc_entropy: of the classes of each filter's strongest images, bits, float64 [filters]; low means keep.
        importance: from 0, all classes alike, to 1, a single class, float64 [filters]; high means keep.
        shares: of each class among a filter's strongest images, float64 [filters, classes].
        margin: mean response to the strongest images, over that to all images, float64 [filters].
        strongest: what these come from.
    """

    rfc_entropy: torch.Tensor
    importance: torch.Tensor
    shares: torch.Tensor
    margin: torch.Tensor
    strongest: Strongest


@settings
class FeatureDiscrimination:
    """Receptive Field Criterion: low entropy of the classes of a channel's strongest images.

    He et al., "Filter Pruning via Feature Discrimination in Deep Neural Networks", ECCV 2022. A group's score is the
    mean importance over the layers that write it. Groups that no layer writes visibly are scored by L2 `Magnitude`,
    brought to the mean score of the others. Of channels that score the same, the one with the larger margin of its
    strongest responses is better, then the one of larger weights.

    Args:
        responses: which images are looked at, and how.
        histogram: what an image adds to the bin of its class: "counts" adds one, "responses" adds the response.
        measure: measure of how peaked a histogram is.
        balanced: divide each histogram by the fraction of each class among all images.
        normalize: see `edakari.criteria.reduce.group_scores`. Raw importance grows towards the output, and a ranking
            over all layers would remove the first ones.
    """

    paper: ClassVar[str] = "He et al., Filter Pruning via Feature Discrimination in Deep Neural Networks, ECCV 2022"

    responses: ResponseSettings = ResponseSettings()
    histogram: Histogram = "counts"
    measure: Measure = "entropy"
    balanced: bool = False
    normalize: Normalize = "mean"

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch], task: Task | None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs batches with labels, the same on all ranks.

        Raises:
            DataError: there are no images, too few of them, no labels, or labels that do not fit the network.
        """
        return self.scores(model, graph, collect_responses(model, graph, batches, task, self.responses))

    def scores(self, model: nn.Module, graph: Graph, responses: FilterResponses) -> Scores:
        """The scores from responses that were gathered before."""
        prior = _prior(responses) if self.balanced else None
        importance: dict[str, list[Array]] = {}
        margins: dict[str, list[Array]] = {}
        for (_, group), strongest in responses.strongest.items():
            each = discriminate(strongest, responses, self.histogram, self.measure, prior)
            importance.setdefault(group, []).append(each.importance.numpy())
            margins.setdefault(group, []).append(each.margin.numpy())
        sizes = Magnitude(p=2).score(model, graph)

        def parts(group: str, size: int) -> list[Array]:
            return importance.get(group, [])

        raw = group_scores(graph, parts, "none")
        scores = {}
        for name, score in raw.items():
            if name in importance:
                score = broken_ties(score, np.mean(margins[name], axis=0), sizes[name].numpy())
            scores[name] = score
        typical = float(np.mean([float(scores[name].mean()) for name in importance])) if importance else 1.0
        scores |= {name: sizes[name] * typical for name in scores if name not in importance}
        return normalized(scores, self.normalize)

    def discriminate(self, responses: FilterResponses) -> Mapping[tuple[LayerOutput, str], Discriminated]:
        """What the filters at each layer output tell apart."""
        prior = _prior(responses) if self.balanced else None
        return {
            key: discriminate(strongest, responses, self.histogram, self.measure, prior)
            for key, strongest in responses.strongest.items()
        }


def discriminate(
    strongest: Strongest,
    responses: FilterResponses,
    histogram: Histogram = "counts",
    measure: Measure = "entropy",
    prior: torch.Tensor | None = None,
) -> Discriminated:
    """How well some filters tell classes apart.

    Filters that respond alike to all images tell nothing apart, whatever images come first: they have the largest
    entropy. So has what a filter does not respond to at all, each such image being shared out over all classes.

    Args:
        strongest: responses of the filters.
        responses: labels, number of classes and of responses that count.
        histogram: see `Histogram`.
        measure: see `Measure`.
        prior: share of each class among all images, to divide by, float64 [classes].
    """
    shares = class_shares(strongest, responses.labels, responses.classes, histogram, prior)
    # differs: the release ranks dead filters by whichever images come first
    shares[strongest.dead] = 1.0 / responses.classes
    most = math.log2(min(responses.classes, responses.top)) if min(responses.classes, responses.top) > 1 else 1.0
    bits = entropy(shares).clamp(max=most)
    bits[strongest.dead] = most
    if measure == "entropy":
        importance = 1.0 - bits / most
    elif measure == "variance":
        importance = ((shares - 1 / responses.classes) ** 2).sum(1) / (1 - 1 / responses.classes)
    else:
        importance = (shares.amax(1) - 1 / responses.classes) / (1 - 1 / responses.classes)
    margin = strongest.responses.double().mean(1) / strongest.mean.abs().clamp(min=1e-30)
    return Discriminated(bits, importance.clamp(0.0, 1.0), shares, margin, strongest)


def class_shares(
    strongest: Strongest,
    labels: torch.Tensor,
    classes: int,
    histogram: Histogram = "counts",
    prior: torch.Tensor | None = None,
) -> torch.Tensor:
    """Share of each class among the images that excite each filter most.

    Args:
        strongest: their responses and numbers, [filters, top].
        labels: of all images, int64 [images], or the mass of each class, float [images, classes]. Not looked at where
            the responses come with labels of their own.
        classes: number of classes.
        histogram: what an image adds.
        prior: share of each class among all images, to divide by, float64 [classes].

    Returns:
        float64 [filters, classes]; rows add up to 1.
    """
    responses = strongest.responses.double()
    silent = responses == 0
    weights = (~silent).double() if histogram == "counts" else responses.clamp(min=0.0)
    found = labels[strongest.ids] if strongest.labels is None else strongest.labels
    if found.ndim == 3:
        mass = torch.einsum("fk,fkc->fc", weights, found.double())
    else:
        known = (found >= 0) & (found < classes)
        mass = torch.zeros(len(responses), classes, dtype=torch.float64)
        mass.scatter_add_(1, torch.where(known, found, 0), torch.where(known, weights, 0.0))
    if prior is not None:
        mass = mass / prior.clamp(min=1e-12)
        mass = mass * (weights.sum(1) / mass.sum(1).clamp(min=1e-300))[:, None]
    if histogram == "counts":
        mass = mass + silent.sum(1, keepdim=True) / classes
    total = mass.sum(1, keepdim=True)
    return torch.where(total > 0, mass / total.clamp(min=1e-300), 1.0 / classes)


def entropy(shares: torch.Tensor) -> torch.Tensor:
    """Shannon entropy of each row, bits: float64 [rows] of shares [rows, classes] that add up to 1."""
    bits: torch.Tensor = torch.special.entr(shares.double()).sum(1) / math.log(2.0)
    return bits + 0.0  # turns -0 into 0


def broken_ties(score: torch.Tensor, margin: Array, size: Array) -> torch.Tensor:
    """Scores in which no two channels are alike: of equal ones the larger margin wins, then size, then the first.

    Args:
        score: float64 [channels].
        margin: of the strongest responses, float64 [channels].
        size: of the weights, float64 [channels].
    """
    rounded = score.numpy().round(DIGITS)
    order = np.lexsort((-np.arange(len(rounded)), size.round(DIGITS), margin.round(DIGITS)))
    rank = np.empty(len(rounded))
    rank[order] = np.arange(len(rounded))
    return torch.from_numpy(rounded + rank / len(rounded) * 10.0 ** -(DIGITS + 1))


def _prior(responses: FilterResponses) -> torch.Tensor | None:
    """Share of each class among all images; None where labels belong to places."""
    if responses.labels.ndim == 2:
        mass = responses.labels.double().sum(0)
    elif bool((responses.labels >= 0).all()):
        mass = torch.bincount(responses.labels, minlength=responses.classes).double()
    else:
        return None
    return mass / mass.sum()
