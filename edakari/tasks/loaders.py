"""Batches from arrays or files, whose order and augmentation depend only on the seed and the epoch."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from edakari.core.processes import Processes
from edakari.errors import DataError
from edakari.tasks.order import FixedBatches, Order
from edakari.tasks.sources import Arrays, Source

__all__ = ["ArrayBatches", "FileBatches", "Pixels", "loaded", "seeded"]

Images = torch.Tensor
Labelled = tuple[torch.Tensor, ...]
"""Images and labels, and optionally the images' indices."""


@dc.dataclass(frozen=True)
class Pixels:
    """Conversion of image bytes to the network's input, for complete batches.

    Args:
        size: height and width of the images; others are resized.
        channels: 1 or 3; grey is repeated, colours are averaged.
        mean: mean of each channel, for pixels in 0 to 1.
        std: standard deviation of each channel.
        pad: number of pixels to pad on each side before a random crop; 0 does not pad.
        flip: whether to mirror half of the images.
        jitter: largest relative change of brightness, contrast and saturation. Above 0, shifts show mirrored borders
            instead of black ones.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False
    jitter: float = 0.0

    @property
    def augments(self) -> bool:
        """Whether any augmentation is random."""
        return bool(self.pad or self.flip or self.jitter)

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> Images:
        """Normalise images, and augment them if there is a generator.

        Args:
            images: images, uint8 [N, H, W, C].
            generator: random generator of the augmentation, on the CPU whatever the device of the images, so that
                each device augments alike.

        Returns:
            float32 [N, channels, height, width], on the device of the images.
        """
        pixels = unit(images.permute(0, 3, 1, 2))
        if pixels.shape[1] != self.channels:
            pixels = pixels.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        if pixels.shape[-2:] != self.size:
            pixels = functional.interpolate(pixels, self.size, mode="bilinear", antialias=True)
        if generator is not None:
            pixels = self._augmented(pixels, generator)
        return self.normalized(pixels)

    def normalized(self, pixels: torch.Tensor) -> Images:
        """Normalise images.

        Args:
            pixels: images [N, channels, height, width], uint8 or from 0 to 1.

        Returns:
            float32 [N, channels, height, width].
        """
        mean, std = (torch.tensor(values).view(1, -1, 1, 1).to(pixels.device) for values in (self.mean, self.std))
        return unit(pixels).sub(mean).div_(std).contiguous()

    def _augmented(self, pixels: Images, generator: torch.Generator) -> Images:
        count, device = len(pixels), pixels.device
        if self.jitter:
            factors = 1 + self.jitter * (2 * torch.rand(3, count, 1, 1, 1, generator=generator) - 1)
            pixels = _coloured(pixels, factors.to(device))
        if self.flip:
            mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        if self.pad:
            padded = functional.pad(pixels, (self.pad,) * 4, mode="reflect" if self.jitter else "constant")
            tops, lefts = torch.randint(0, 2 * self.pad + 1, (2, count), generator=generator).to(device)
            rows = (tops[:, None] + torch.arange(self.size[0], device=device))[:, :, None]
            columns = (lefts[:, None] + torch.arange(self.size[1], device=device))[:, None, :]
            # Indexing moves the channels last: [N, height, width, C].
            numbers = torch.arange(count, device=device)[:, None, None]
            pixels = padded[numbers, :, rows, columns].permute(0, 3, 1, 2)
        return pixels


def unit(pixels: torch.Tensor) -> Images:
    """Return pixels from 0 to 1; bytes are divided by 255."""
    return pixels.float().div_(255.0) if pixels.dtype == torch.uint8 else pixels


def _coloured(pixels: Images, factors: torch.Tensor) -> Images:
    """Other brightness, contrast and saturation, as torchvision has them; factors are [3, N, 1, 1, 1]."""
    brightness, contrast, saturation = factors
    pixels = (pixels * brightness).clamp(0, 1)
    pixels = (contrast * pixels + (1 - contrast) * _grey(pixels).mean((1, 2, 3), keepdim=True)).clamp(0, 1)
    coloured: Images = (saturation * pixels + (1 - saturation) * _grey(pixels)).clamp(0, 1)
    return coloured


def _grey(pixels: Images) -> Images:
    """Compute luma [N, 1, H, W] (ITU-R BT.601)."""
    if pixels.shape[1] == 1:
        return pixels
    luma = torch.tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1).to(pixels.device)
    return (pixels * luma).sum(1, keepdim=True)


class ArrayBatches:
    """Batches (float32 [N, C, H, W], int64 [N]) of images in memory, made by a few tensor operations each.

    Args:
        source: the images.
        order: which make up each batch.
        pixels: how they become the network's input.
        views: number of augmented views, concatenated, with the images' indices as the third entry; 0 gives one view
            without indices.
        device: device that holds a copy of all images and makes the batches' images; None makes them on the CPU. Labels
            and indices are on the CPU in any case.
    """

    def __init__(
        self,
        source: Arrays,
        order: Order | FixedBatches,
        pixels: Pixels,
        views: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.source, self.order, self.pixels, self.views, self.device = source, order, pixels, views, device
        self.epoch = self.first = 0
        self._copied: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.order) - self.first

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass is; decides order and augmentation."""
        self.epoch = epoch

    def skip(self, count: int) -> ArrayBatches:
        """The same epoch without its first batches."""
        rest = ArrayBatches(self.source, self.order, self.pixels, self.views, self.device)
        rest.epoch, rest.first, rest._copied = self.epoch, self.first + count, self._copied
        return rest

    def _images(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """The images of a batch, uint8 [N, H, W, C]; the first call copies all of them to the device."""
        if self.device is None:
            return torch.from_numpy(self.source.images[indices])
        if self._copied is None:
            self._copied = torch.tensor(self.source.images, device=self.device)
        return self._copied[torch.from_numpy(indices).to(self.device)]

    def __iter__(self) -> Iterator[Labelled]:
        for number, indices in enumerate(self.order.batches(self.epoch, self.first), self.first):
            generator = None
            if self.pixels.augments:
                seeds = np.random.SeedSequence((self.order.seed, self.epoch, number, Processes.here().rank))
                generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
            images, labels = self._images(indices), torch.from_numpy(self.source.labels[indices])
            if self.views:
                drawn = torch.cat([self.pixels(images, generator) for _ in range(self.views)])
                yield drawn, labels.repeat(self.views), torch.from_numpy(indices).repeat(self.views)
            else:
                yield self.pixels(images, generator), labels


class FileBatches:
    """Batches (float32 [N, C, H, W], int64 [N]) of images that workers transform one by one.

    Args:
        source: the images.
        order: which make up each batch.
        transform: function from uint8 [C, H, W], or pixels from 0 to 1, to the same of the network's size.
        pixels: normalisation of the transformed images.
        workers: number of processes that read files.
        views: see `ArrayBatches`.
    """

    def __init__(
        self,
        source: Source,
        order: Order | FixedBatches,
        transform: Callable[[torch.Tensor], torch.Tensor],
        pixels: Pixels,
        workers: int = 0,
        views: int = 0,
    ) -> None:
        self.source, self.order, self.transform, self.pixels = source, order, transform, pixels
        self.workers, self.views = workers, views
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return len(self.order) - self.first

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass is; decides order and augmentation."""
        self.epoch = epoch

    def skip(self, count: int) -> FileBatches:
        """The same epoch without its first batches."""
        rest = FileBatches(self.source, self.order, self.transform, self.pixels, self.workers, self.views)
        rest.epoch, rest.first = self.epoch, self.first + count
        return rest

    def __iter__(self) -> Iterator[Labelled]:
        dataset = _Transformed(self.source, self.transform, (self.order.seed, self.epoch), max(1, self.views))
        batches = self.order.batches(self.epoch, self.first)
        for images_NVCHW, labels, numbers in loaded(dataset, batches, self.workers, _collated):
            images = self.pixels.normalized(images_NVCHW.transpose(0, 1).flatten(0, 1))
            if self.views:
                yield images, labels.repeat(self.views), numbers.repeat(self.views)
            else:
                yield images, labels


def loaded(
    dataset: Dataset[Any],
    batches: Iterable[npt.NDArray[np.int64]],
    workers: int,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Any]:
    """Yield batches of a data set's items, read by workers.

    Args:
        dataset: a map-style data set whose items depend only on their index.
        batches: indices of each batch.
        workers: number of processes that read items; 0 reads in this process.
        collate: function that makes a batch of a list of items; None stacks tensors.

    Raises:
        DataError: an item cannot be read.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=[indices.tolist() for indices in batches],
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_deaf,
        # Its own: the loader would draw a seed from the global state otherwise.
        generator=torch.Generator().manual_seed(0),
        pin_memory=torch.cuda.is_available(),
    )
    try:
        yield from loader
    except DataError as error:
        # A worker's error arrives with its complete traceback.
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("edakari.errors.DataError: ")) from None


class _Transformed(Dataset[Labelled]):
    def __init__(
        self, source: Source, transform: Callable[[torch.Tensor], torch.Tensor], seeds: tuple[int, int], views: int
    ) -> None:
        self.source, self.transform, self.seeds, self.views = source, transform, seeds, views

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, index: int) -> Labelled:
        pixels = self.source.pixels(index)
        with seeded((*self.seeds, index)):
            views_VCHW = torch.stack([self.transform(pixels) for _ in range(self.views)])
        return views_VCHW, torch.tensor(self.source.labels[index]), torch.tensor(index)


def _collated(items: Sequence[Labelled]) -> Labelled:
    """Stack images, which stay bytes if all of them are, labels and indices."""
    images, labels, numbers = zip(*items, strict=True)
    if len({each.dtype for each in images}) > 1:
        images = tuple(map(unit, images))
    return torch.stack(images), torch.stack(labels), torch.stack(numbers)


@contextlib.contextmanager
def seeded(seeds: Sequence[int]) -> Iterator[None]:
    """Context with random states that depend only on the seeds; transforms use all three generators."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _deaf(worker: int) -> None:
    # Ctrl-C reaches the workers, too; the main process decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
