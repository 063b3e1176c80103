"""Order of images in batches, which depends only on the seed and the epoch.

A batch size counts the images over all processes together; each process gets an equal part of every training batch.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edakari.core.processes import ALONE, Processes
from edakari.errors import DataError

__all__ = ["ClassOrder", "FixedBatches", "NeighbourOrder", "Order"]


@dc.dataclass(frozen=True)
class Order:
    """Order of images in batches.

    Args:
        count: number of images.
        batch_size: images per batch, over all processes.
        seed: seed of the shuffling.
        shuffle: whether to draw a new order each epoch.
        shared: whether every process gets all images of each batch.
        drop_last: whether to leave out an incomplete last batch. While shuffled, the rest that does not divide among
            the processes, and a single image, which batch norm cannot train on, are left out in any case.
    """

    count: int
    batch_size: int
    seed: int = 0
    shuffle: bool = False
    shared: bool = False
    drop_last: bool = False

    def check(self) -> None:
        """Raise an error for batches that cannot be divided equally among the processes.

        Raises:
            DataError: a batch cannot be divided; the message gives its number of images.
        """
        size, world = min(self.batch_size, self.count), Processes.here().world
        if self.shuffle and not self.shared and size % world:
            raise DataError(
                f"a batch of {size} images does not divide among {world} processes; change data.batch_size"
                + (f", as there are {self.count} training images only" if size < self.batch_size else "")
            )

    def __len__(self) -> int:
        full, _ = divmod(self.count, self.batch_size)
        return full + 1 if self._rest else full

    @property
    def _rest(self) -> int:
        """Images in an incomplete last batch; 0 if it is left out."""
        full, rest = divmod(self.count, self.batch_size)
        if not full or not self.shuffle:
            return 0 if full and self.drop_last else rest
        world = 1 if self.shared else Processes.here().world
        rest -= rest % world
        return 0 if self.drop_last or rest <= world else rest

    def indices(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the images of an epoch in their order, int64 [count]."""
        if not self.shuffle:
            return np.arange(self.count)
        return np.random.default_rng((self.seed, epoch)).permutation(self.count)

    def batches(self, epoch: int, first: int = 0) -> Iterator[npt.NDArray[np.int64]]:
        """Yield this process's indices in each batch from `first` on.

        Raises:
            DataError: a batch cannot be divided equally among the processes.
        """
        here = ALONE if self.shared else Processes.here()
        for whole in self.undivided(epoch, first):
            part = np.array_split(whole, here.world)[here.rank]
            if len(part):
                yield part

    def undivided(self, epoch: int, first: int = 0) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the indices of all processes in each batch from `first` on.

        Raises:
            DataError: a batch cannot be divided equally among the processes.
        """
        self.check()
        indices = self.indices(epoch)
        for number in range(first, len(self)):
            first_image = number * self.batch_size
            size = self._rest if number == self.count // self.batch_size else self.batch_size
            yield indices[first_image : first_image + size]


@dc.dataclass(frozen=True, eq=False, kw_only=True)
class ClassOrder(Order):
    """Order in which a few images of one class stand together, so that batches have pairs; each image appears once.

    Args:
        labels: class of each image, int64 [count].
        together: number of images of a class that stand together.
    """

    labels: npt.NDArray[np.int64]
    together: int

    def indices(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the images of an epoch in their order; that of epoch 0 in every epoch unless shuffled."""
        rng = np.random.default_rng((self.seed, epoch if self.shuffle else 0))
        parts: list[npt.NDArray[np.int64]] = []
        for label in np.unique(self.labels):
            own = rng.permutation(np.flatnonzero(self.labels == label))
            # rather a few more together than one alone
            parts += np.array_split(own, max(1, len(own) // self.together))
        return np.concatenate([parts[index] for index in rng.permutation(len(parts))])


@dc.dataclass(frozen=True)
class NeighbourOrder:
    """An order in which each process gets the image before its part of a batch, too, as the first one.

    So an image has the same neighbour on any number of processes. Before the first image of a batch comes the last one;
    a process that is alone has it already, and gets no image more.

    Args:
        order: order of the images in batches, of which each process gets a part.
    """

    order: Order

    @property
    def seed(self) -> int:
        """Seed of the shuffling."""
        return self.order.seed

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int, first: int = 0) -> Iterator[npt.NDArray[np.int64]]:
        """Yield this process's indices in each batch from `first` on; see `Order.batches`."""
        here = Processes.here()
        for whole in self.order.undivided(epoch, first):
            own = np.array_split(np.arange(len(whole)), here.world)[here.rank]
            yield whole if here.world == 1 else whole[np.concatenate([own[:1] - 1, own])]


@dc.dataclass(frozen=True)
class FixedBatches:
    """Given batches, the same in every epoch and on every process.

    Args:
        parts: indices of the images of each batch, int64.
        seed: seed of the augmentation.
    """

    parts: tuple[npt.NDArray[np.int64], ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.parts)

    def batches(self, epoch: int, first: int = 0) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the indices of each batch from `first` on."""
        yield from self.parts[first:]
