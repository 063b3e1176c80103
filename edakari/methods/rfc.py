"""Filter pruning by feature discrimination: the criterion (RFC), and the method that decides where to prune (DLRFC).

He et al., "Filter Pruning via Feature Discrimination in Deep Neural Networks", ECCV 2022. A filter is worth keeping if
the images that excite it most are of few classes. Scores are compared inside of a group only; which groups give way is
tried out: each is cut alone, and those are cut for which accuracy and the distribution over classes hardly change.
First the residual streams give way, then what lies inside of blocks, with a little training after each cut. Details are
those of the authors' code; where it is not followed, a comment `# differs:` says so.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import KeepChannels
from edakari.core.settings import (
    Count,
    Fraction,
    LearningRate,
    OpenFraction,
    Positive,
    PositiveFraction,
    Whole,
    settings,
)
from edakari.criteria import FeatureDiscrimination, ResponseSettings
from edakari.criteria.discrimination import Histogram, Measure
from edakari.criteria.labels import LabelSource
from edakari.criteria.responses import Reduce
from edakari.methods.allocation import AllocatorName
from edakari.methods.iterative import prune_by
from edakari.methods.redundancy.trials import prune_by_trials

__all__ = ["DistinguishingLayerPruning", "FeatureDiscriminationPruning"]

PAPER = "He et al., Filter Pruning via Feature Discrimination in Deep Neural Networks, ECCV 2022"
CHANNELS: frozenset[type[Any]] = frozenset({KeepChannels})


@register("rfc")
@settings
class FeatureDiscriminationPruning:
    """Remove filters whose strongest images belong to many classes; an allocator decides how many of each group.

    Args:
        iterations: number of cuts on the way to the budget; 1 is one-shot.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: peak learning rate of the training between cuts.
        allocator: allocator that spends the budget on the groups.
        images: largest number of images of the calibration split to look at.
        top: number of strongest images of each filter that count; below 1, a fraction of the images.
        reduce: how a filter's map becomes its response: "l2" takes the L2 norm, "max" the largest entry.
        labels: "data" takes the labels of the data, "predicted" the network's own predictions.
        histogram: what an image adds to the bin of its class: "counts" adds one, "responses" adds the response.
        measure: measure of how peaked a histogram is.
        balanced: divide each histogram by the fraction of each class among all images.
    """

    paper: ClassVar[str] = PAPER
    emits: ClassVar[frozenset[type[Any]]] = CHANNELS

    iterations: Count = 1
    recovery_epochs: Whole = 0
    recovery_lr: LearningRate = 0.01
    allocator: AllocatorName = "threshold"
    images: Count = 12800
    top: Count | OpenFraction = 0.05
    reduce: Reduce = "l2"
    labels: LabelSource = "data"
    histogram: Histogram = "counts"
    measure: Measure = "entropy"
    balanced: bool = False

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_by("rfc", _criterion(self), self, job)


@register("dlrfc")
@settings
class DistinguishingLayerPruning:
    """Round by round, cut the groups that lose least with their least discriminative filters.

    Args:
        images: largest number of images of the calibration split to look at, for scores and for trials.
        top: number of strongest images of each filter that count; below 1, a fraction of the images.
        reduce: how a filter's map becomes its response: "l2" takes the L2 norm, "max" the largest entry.
        labels: "data" takes the labels of the data, "predicted" the network's own predictions.
        histogram: what an image adds to the bin of its class: "counts" adds one, "responses" adds the response.
        measure: measure of how peaked a histogram is.
        balanced: divide each histogram by the fraction of each class among all images.
        trial_images: largest number of images on which trials are evaluated; None takes as many as `images`.
        tolerance: redundancy score below which a group is cut (tau in the paper).
        accuracy_weight: weight of the accuracy drop in the redundancy score (beta in the paper); the rest weighs the
            change of the class distribution.
        residual_weight: factor of the accuracy drop in residual streams.
        soft: "cosine" compares class distributions; "off" does not, which is what the authors' code does in effect.
        residual_step: fraction of a residual stream's width that a cut removes at first, divided by its number of
            blocks.
        inner_step: fraction of the width that a cut removes at first, in groups that are not residual streams.
        residual_share: fraction of the saving that residual streams make before the other groups begin.
        joint: also try all groups of a round together, and leave out half of them if that loses too much.
        stalled: what happens if no group can lose even one filter: "relax" doubles the tolerance, "stop" ends with an
            error.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: peak learning rate of the training between cuts.
    """

    paper: ClassVar[str] = PAPER
    emits: ClassVar[frozenset[type[Any]]] = CHANNELS

    images: Count = 12800
    top: Count | OpenFraction = 0.05
    reduce: Reduce = "l2"
    labels: LabelSource = "data"
    histogram: Histogram = "counts"
    measure: Measure = "entropy"
    balanced: bool = False
    trial_images: Count | None = None
    tolerance: Positive = 0.1
    accuracy_weight: Fraction = 0.8
    residual_weight: Fraction = 0.1
    # differs: the authors' code compares single numbers by their cosine, which is 1 whatever they are
    soft: Literal["cosine", "off"] = "cosine"
    residual_step: PositiveFraction = 0.5
    inner_step: PositiveFraction = 0.5
    residual_share: Fraction = 0.4
    joint: bool = False
    stalled: Literal["relax", "stop"] = "relax"
    recovery_epochs: Whole = 1
    recovery_lr: LearningRate = 0.001

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_by_trials("dlrfc", _criterion(self), self, job)


class _Discrimination(Protocol):
    """The settings of the criterion, as both methods have them."""

    @property
    def images(self) -> int:
        """See `FeatureDiscriminationPruning`."""

    @property
    def top(self) -> int | float:
        """See `FeatureDiscriminationPruning`."""

    @property
    def reduce(self) -> Reduce:
        """See `FeatureDiscriminationPruning`."""

    @property
    def labels(self) -> LabelSource:
        """See `FeatureDiscriminationPruning`."""

    @property
    def histogram(self) -> Histogram:
        """See `FeatureDiscriminationPruning`."""

    @property
    def measure(self) -> Measure:
        """See `FeatureDiscriminationPruning`."""

    @property
    def balanced(self) -> bool:
        """See `FeatureDiscriminationPruning`."""


def _criterion(settings: _Discrimination) -> FeatureDiscrimination:
    return FeatureDiscrimination(
        response_settings=ResponseSettings(
            reduce=settings.reduce, images=settings.images, top=settings.top, labels=settings.labels
        ),
        histogram=settings.histogram,
        measure=settings.measure,
        balanced=settings.balanced,
    )
