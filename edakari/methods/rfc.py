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
    """Remove the filters whose strongest images are of all classes alike, as many of each group as an allocator says.

    Args:
        iterations: cuts on the way to the budget; 1 is one-shot.
        recovery_epochs: epochs of training after each cut but the last.
        recovery_lr: peak learning rate of that training.
        allocator: who spends the budget on groups.
        images: of the search split that are looked at, at most.
        top: strongest images of each filter that count; a share of them below 1.
        reduce: from a filter's map to its response.
        labels: those of the data, or the network's own predictions.
        histogram: what an image adds to its class: one, or the response to it.
        measure: what says how peaked a histogram is.
        balanced: divide by each class's share of all images.
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
    """Cut, again and again, those groups that can lose their least discriminative filters without harm.

    Args:
        images: of the search split that are looked at, at most; for scores and for trials.
        top: strongest images of each filter that count; a share of them below 1.
        reduce: from a filter's map to its response.
        labels: those of the data, or the network's own predictions.
        histogram: what an image adds to its class: one, or the response to it.
        measure: what says how peaked a histogram is.
        balanced: divide by each class's share of all images.
        trial_images: that trials are judged on, at most; null is as many as `images`.
        tolerance: redundancy score below which a group gives way (the paper's tau).
        accuracy_weight: of the accuracy's drop in that score (beta); the rest is of the distribution's change.
        residual_weight: that a drop counts with in residual streams.
        soft: "cosine" compares distributions over classes; "off" does not, as the authors' code in effect.
        residual_step: share of a residual stream's width that a cut takes at first, divided by its number of blocks.
        inner_step: share of any other group's width.
        residual_share: of the saving that residual streams make before the others begin.
        joint: try all groups of a round together too, and leave half of them where that is too much.
        stalled: where no group can lose even one filter: "relax" doubles the tolerance, "stop" is an error.
        recovery_epochs: epochs of training after each cut but the last.
        recovery_lr: peak learning rate of that training.
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
