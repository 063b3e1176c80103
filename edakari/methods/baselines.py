"""The baselines: score by a criterion, allocate the budget, cut."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import KeepChannels
from edakari.core.settings import Count, LearningRate, Whole, settings
from edakari.criteria import BatchNormScale, GeometricMedian, Magnitude, Random, Taylor
from edakari.methods.allocation import AllocatorName
from edakari.methods.iterative import prune_by

__all__ = [
    "BatchNormScalePruning",
    "GeometricMedianPruning",
    "MagnitudePruning",
    "RandomPruning",
    "TaylorPruning",
]

CHANNELS: frozenset[type[Any]] = frozenset({KeepChannels})


@register("magnitude")
@settings
class MagnitudePruning:
    """Remove the channels with the smallest weights.

    Args:
        iterations: number of cuts on the way to the budget; 1 is one-shot.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: peak learning rate of the training between cuts.
        allocator: allocator that spends the budget on the groups.
        p: order of the norm.
    """

    paper: ClassVar[str] = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017"
    emits: ClassVar[frozenset[type[Any]]] = CHANNELS

    iterations: Count = 1
    recovery_epochs: Whole = 0
    recovery_lr: LearningRate = 0.01
    allocator: AllocatorName = "threshold"
    p: Literal[1, 2] = 2

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_by("magnitude", Magnitude(p=self.p), self, job)


@register("bn_scale")
@settings
class BatchNormScalePruning:
    """Remove the channels with the smallest batch-norm scales.

    Args:
        iterations: number of cuts on the way to the budget; 1 is one-shot.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: peak learning rate of the training between cuts.
        allocator: allocator that spends the budget on the groups.
    """

    paper: ClassVar[str] = "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017"
    emits: ClassVar[frozenset[type[Any]]] = CHANNELS

    iterations: Count = 1
    recovery_epochs: Whole = 0
    recovery_lr: LearningRate = 0.01
    allocator: AllocatorName = "threshold"

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_by("bn_scale", BatchNormScale(), self, job)


@register("fpgm")
@settings
class GeometricMedianPruning:
    """Remove the channels nearest to the geometric median of their group.

    Args:
        iterations: number of cuts on the way to the budget; 1 is one-shot.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: peak learning rate of the training between cuts.
        allocator: allocator that spends the budget on the groups.
    """

    paper: ClassVar[str] = (
        "He et al., Filter Pruning via Geometric Median for Deep Neural Networks Acceleration, CVPR 2019"
    )
    emits: ClassVar[frozenset[type[Any]]] = CHANNELS

    iterations: Count = 1
    recovery_epochs: Whole = 0
    recovery_lr: LearningRate = 0.01
    allocator: AllocatorName = "threshold"

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_by("fpgm", GeometricMedian(), self, job)


@register("taylor")
@settings
class TaylorPruning:
    """Remove the channels whose removal changes the loss least, to first order.

    Args:
        iterations: number of cuts on the way to the budget; 1 is one-shot.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: peak learning rate of the training between cuts.
        allocator: allocator that spends the budget on the groups.
        max_batches: largest number of batches of the calibration split on which gradients are computed, per process.
    """

    paper: ClassVar[str] = "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019"
    emits: ClassVar[frozenset[type[Any]]] = CHANNELS

    iterations: Count = 1
    recovery_epochs: Whole = 0
    recovery_lr: LearningRate = 0.01
    allocator: AllocatorName = "threshold"
    max_batches: Count = 16

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_by("taylor", Taylor(max_batches=self.max_batches), self, job)


@register("random")
@settings
class RandomPruning:
    """Remove channels at random.

    Args:
        iterations: number of cuts on the way to the budget; 1 is one-shot.
        recovery_epochs: number of training epochs after each cut except the last.
        recovery_lr: peak learning rate of the training between cuts.
        allocator: allocator that spends the budget on the groups.
    """

    paper: ClassVar[str] = "Mittal et al., Recovering from Random Pruning, WACV 2018"
    emits: ClassVar[frozenset[type[Any]]] = CHANNELS

    iterations: Count = 1
    recovery_epochs: Whole = 0
    recovery_lr: LearningRate = 0.01
    allocator: AllocatorName = "threshold"

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_by("random", Random(job.seed), self, job)
