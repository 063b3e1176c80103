"""Feature discrimination (RFC): how well a filter's strongest responses separate the classes."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.modes import judging
from edakari.core.output_kinds import Suits
from edakari.core.protocols import Batch, Task
from edakari.core.settings import settings
from edakari.core.space import Scores
from edakari.criteria.labels import labels_of
from edakari.criteria.magnitude import Magnitude
from edakari.criteria.ranking import Strongest
from edakari.criteria.reduce import Array, Normalize, group_scores, normalized
from edakari.criteria.responses import FilterResponses, ResponseSettings, collect_responses
from edakari.graph.layer_outputs import LayerOutput

__all__ = ["Discriminated", "FeatureDiscrimination", "Histogram", "Measure", "class_shares", "discriminate", "entropy"]

# differs: the softmax of mean responses per class, which the abstract allows too, would need a sum for each filter and
# class; the authors' code counts images
Histogram = Literal["counts", "responses"]
"""What an image adds to its class in the histogram: one ("counts") or its response ("responses")."""

Measure = Literal["entropy", "variance", "peak"]
"""How the peakedness of a histogram is measured; the paper uses entropy."""

DIGITS = 9
"""Decimal digits of an importance that are compared; later digits depend on the order of summation."""


@dc.dataclass(frozen=True)
class Discriminated:
    """How well the filters of a group separate the classes at one layer output.

    Args:
        rfc_entropy: entropy of the classes of each filter's strongest images, in bits, float64 [filters]; low is
            important.
        importance: from 0 (all classes equally) to 1 (a single class), float64 [filters]; high is important.
        shares: fraction of each class among a filter's strongest images, float64 [filters, classes].
        margin: mean response to the strongest images divided by the mean response to all images, float64 [filters].
        strongest: the responses from which these values are computed.
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
    mean importance over the layers that produce it. If no layer output of a group can be observed, it is scored by L2
    `Magnitude`, rescaled to the mean score of the others. Between channels with equal scores, the larger margin of
    strongest responses ranks higher, then the larger weights.

    Args:
        responses: which images are looked at, and how.
        histogram: what an image adds to the bin of its class: "counts" adds one, "responses" adds the response.
        measure: measure of how peaked a histogram is.
        balanced: divide each histogram by the fraction of each class among all images.
        normalize: divide the scores of a group by their "mean", "max" or "sum", so that all groups can be ranked
            together; "none" leaves them. Raw importance grows with depth, so a ranking of raw
            scores over all layers would remove the first layers.
    """

    paper: ClassVar[str] = "He et al., Filter Pruning via Feature Discrimination in Deep Neural Networks, ECCV 2022"
    needs_data: ClassVar[bool] = True
    suits: ClassVar[Suits] = Suits(
        ("class", "classes", "map"), "counts the classes of the images or pixels that excite a channel most"
    )

    responses: ResponseSettings = ResponseSettings()
    histogram: Histogram = "counts"
    measure: Measure = "entropy"
    balanced: bool = False
    normalize: Normalize = "mean"

    def check_task(self, model: nn.Module, task: Task, batch: Batch) -> None:
        """Find the labels of a batch; see `edakari.core.method.parts_of`."""
        with judging(model):
            labels_of(batch, task.outputs(model, batch), self.responses.labels)

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch], task: Task | None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs batches with labels, the same on all ranks.

        Raises:
            DataError: there are no images, too few of them, no labels, or labels that do not fit the network.
        """
        return self.scores(model, graph, collect_responses(model, graph, batches, task, self.responses))

    def scores(self, model: nn.Module, graph: Graph, responses: FilterResponses) -> Scores:
        """Compute the scores from responses that were collected before."""
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
        """Compute how well the filters separate the classes, for each layer output and group."""
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
    """Compute how well some filters separate the classes.

    A filter with the same response to all images separates nothing: it gets the largest entropy, whichever images rank
    first. An image without any response counts equally for all classes.

    Args:
        strongest: the filters' strongest responses.
        responses: the labels and the number of classes.
        histogram: see `Histogram`.
        measure: see `Measure`.
        prior: fraction of each class among all images, to divide by, float64 [classes].
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
    """Compute the fraction of each class among the images with each filter's strongest responses.

    Args:
        strongest: the strongest responses and the indices of their images, [filters, top].
        labels: labels of all images, int64 [images], or the weight of each class, float [images, classes]. They are
            ignored if the responses have labels of their own.
        classes: number of classes.
        histogram: what an image adds to its class.
        prior: fraction of each class among all images, to divide by, float64 [classes].

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
        # differs: the release counts images without response too, by whichever come first
        mass = mass + silent.sum(1, keepdim=True).double() / classes
    total = mass.sum(1, keepdim=True)
    return torch.where(total > 0, mass / total.clamp(min=1e-300), 1.0 / classes)


def entropy(shares: torch.Tensor) -> torch.Tensor:
    """Compute the Shannon entropy of each row in bits: float64 [rows]; rows of `shares` [rows, classes] sum to 1."""
    bits: torch.Tensor = torch.special.entr(shares.double()).sum(1) / math.log(2.0)
    return bits + 0.0  # turns -0 into 0


def broken_ties(score: torch.Tensor, margin: Array, size: Array) -> torch.Tensor:
    """Break ties between equal scores: by the larger margin, then the larger weights, then the lower index.

    Args:
        score: scores, float64 [channels].
        margin: margin of the strongest responses, float64 [channels].
        size: magnitude of the weights, float64 [channels].
    """
    rounded = score.numpy().round(DIGITS)
    order = np.lexsort((-np.arange(len(rounded)), size.round(DIGITS), margin.round(DIGITS)))
    rank = np.empty(len(rounded))
    rank[order] = np.arange(len(rounded))
    return torch.from_numpy(rounded + rank / len(rounded) * 10.0 ** -(DIGITS + 1))


def _prior(responses: FilterResponses) -> torch.Tensor | None:
    """Fraction of each class among all images; None for labels per pixel."""
    if responses.labels.ndim == 2:
        mass = responses.labels.double().sum(0)
    elif bool((responses.labels >= 0).all()):
        mass = torch.bincount(responses.labels, minlength=responses.classes).double()
    else:
        return None
    return mass / mass.sum()
