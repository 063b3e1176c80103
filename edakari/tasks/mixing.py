"""Mixup and cutmix: images of a training batch are mixed in pairs, and their classes in the same proportion.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix: Regularization Strategy to
Train Strong Classifiers with Localizable Features", ICCV 2019. The pairs and what is drawn for a batch follow from the
seed, the epoch and the batch's number. So a resumed training and any number of processes see the same images.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator
from typing import Any

import torch

from edakari.core.processes import Processes
from edakari.core.protocols import Task
from edakari.core.seeds import derived_seed
from edakari.tasks.draws import seeded
from edakari.tasks.loaders import ArrayBatches, FileBatches
from edakari.tasks.transforms import torchvision_transforms

__all__ = ["MixedBatches", "Mixing", "unmixed"]


@dc.dataclass(frozen=True)
class Mixing:
    """How the images of a batch are mixed; if both ways are asked for, each batch draws one of them.

    Args:
        mixup: parameter of mixup's beta distribution; 0 leaves it out.
        cutmix: parameter of cutmix's beta distribution; 0 leaves it out.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def transform(self, classes: int) -> Any:
        """Make torchvision's transform of images [N, C, H, W] and labels [N]; labels become float32 [N, classes].

        Args:
            classes: number of classes.
        """
        v2 = torchvision_transforms()
        known = ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
        ways = [kind(alpha=alpha, num_classes=classes) for kind, alpha in known if alpha > 0]
        return ways[0] if len(ways) == 1 else v2.RandomChoice(ways)


class MixedBatches:
    """Batches whose images are each mixed with the one before; labels are float32 [N, classes], and sum to 1.

    Args:
        batches: batches in a `NeighbourOrder`, with labels int64 [N].
        mixing: how they are mixed.
        classes: number of classes.
    """

    def __init__(self, batches: ArrayBatches | FileBatches, mixing: Mixing, classes: int) -> None:
        self.batches, self.mixing, self.classes = batches, mixing, classes

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass, which decides order, augmentation and mixing."""
        self.batches.set_epoch(epoch)

    def skip(self, count: int) -> MixedBatches:
        """Return the batches of the same epoch without the first ones."""
        return MixedBatches(self.batches.skip(count), self.mixing, self.classes)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        transform, first = self.mixing.transform(self.classes), int(Processes.here().world > 1)
        seed, epoch = derived_seed(self.batches.order.seed, "mixing"), self.batches.epoch
        for number, batch in enumerate(self.batches, self.batches.first):
            with seeded((seed, epoch, number)):
                images, labels = transform(*batch)
            yield images[first:], labels[first:]


def unmixed(task: Task) -> Task:
    """Return a task that gives the training images of another one as they are, each with one class.

    Args:
        task: a task, which may mix them.
    """
    own: Any = getattr(task, "unmixed", None)
    found: Task = own() if callable(own) else task
    return found
