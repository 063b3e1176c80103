"""Images with label maps: reading, and batches with the same augmentation for both."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from edakari.core.processes import Processes
from edakari.errors import DataError
from edakari.tasks.loaders import Labelled, Pixels
from edakari.tasks.order import Order
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources import Arrays, read_parts
from edakari.tasks.sources.npz import CLASSES

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MapBatches", "read_maps"]

ENDINGS = (".png", ".bmp", ".tif", ".tiff")
"""Suffixes of label maps: lossless formats."""
BILINEAR = 2
"""Pillow's number of the filter, so that nothing needs Pillow that reads no images."""
Part = tuple[npt.NDArray[np.uint8], npt.NDArray[Any], tuple[str, ...]]


def read_maps(settings: DataSettings, ignored: int) -> tuple[Arrays, Arrays | None]:
    """Read training data, and validation data if there is any, into memory at the input's size.

    A folder has `images/` and `labels/` in it, files of the same stem belonging together, or `train/` and `val/` with
    these. An .npz file holds `images`, uint8 [N, H, W, C], and `labels`, integers [N, H, W]. Label maps hold numbers of
    classes from 0 on, and `ignored` where a pixel does not count.

    Raises:
        DataError: the data is missing, empty, unreadable or of the wrong form, or there is one class only.
    """
    if settings.train:
        held, train = settings.val, settings.train
    else:
        root = Path(settings.source)
        inner = root / "train"
        beside = str(root / "val") if inner.is_dir() and (root / "val").is_dir() else None
        held, train = settings.val or beside, (str(inner if inner.is_dir() else root),)
    found = _source(train, settings.size, ignored, None)
    return found, _source((held,), settings.size, ignored, found) if held else None


def _source(paths: Sequence[str], size: tuple[int, int] | None, ignored: int, like: Arrays | None) -> Arrays:
    where = ", ".join(paths)
    if all(path.endswith(".npz") for path in paths):
        parts = [_sized(part, size) for part in read_parts(paths)]
    elif len(paths) == 1:
        parts = [_from_folder(Path(paths[0]), size)]
    else:
        raise DataError(f"data.train names {list(paths)}; give .npz files only, or a single folder")
    labels = np.concatenate([_checked(path, *part[:2]) for path, part in zip(paths, parts, strict=True)])
    counted = labels[labels != ignored]
    names = like.classes if like else parts[0][2]
    if counted.size and counted.max() >= CLASSES:
        raise DataError(f"{where}: a label is {counted.max()}; at most {CLASSES:,} classes are counted, from 0 on")
    names = names or tuple(str(number) for number in range(int(counted.max()) + 1 if counted.size else 0))
    if not counted.size or not 0 <= counted.min() <= counted.max() < len(names):
        span = f"from {counted.min()} to {counted.max()}" if counted.size else "that all are ignored"
        raise DataError(
            f"{where}: labels {span}, but there are {len(names)} classes (from 0 on); pixels that do not count have "
            f"{ignored} (ignore_index of data.task)"
        )
    if len(names) < 2 or (like is None and counted.min() == counted.max()):
        raise DataError(f"{where}: all pixels are of one class; there is nothing to tell apart")
    return Arrays(np.concatenate([part[0] for part in parts]), labels, names)


def _checked(path: str, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:3]:
        raise DataError(
            f"{path}: data.task is segmentation, and `labels` must be integers {list(images.shape[:3])}, one for each "
            f"pixel, found {labels.dtype} {list(labels.shape)}"
        )
    low, high = (labels.min(), labels.max()) if labels.size else (0, 0)
    if not np.iinfo(np.int32).min <= low <= high <= np.iinfo(np.int32).max:
        raise DataError(f"{path}: labels range over {low} to {high}, which no number of classes explains")
    # as small as they come: int64 maps would take eight times the memory of the images' channels
    return labels.astype(np.uint8) if low >= 0 and high < 256 else labels.astype(np.int32)


def _sized(part: Part, size: tuple[int, int] | None) -> Part:
    """Images and maps of a file at the input's size."""
    images, labels, names = part
    if size is None or images.shape[1:3] == size or labels.shape != images.shape[:3]:
        return part
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    shrunk = [
        functional.interpolate(some.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        for some in torch.split(pixels, 64)
    ]
    return torch.cat(shrunk).permute(0, 2, 3, 1).contiguous().numpy(), _nearest(labels, size), names


def _from_folder(path: Path, size: tuple[int, int] | None) -> Part:
    folders = path / "images", path / "labels"
    if not all(folder.is_dir() for folder in folders):
        raise DataError(
            f"folder {str(path)!r} has no images/ and labels/ in it (data.task is segmentation); put label maps, PNG "
            "files with the number of each pixel's class, under the same names as their images"
        )
    maps = {file.stem: file for file in sorted(folders[1].iterdir()) if file.suffix.lower() in ENDINGS}
    files = [file for file in sorted(folders[0].iterdir()) if file.is_file() and not file.name.startswith(".")]
    without = [file.name for file in files if file.stem not in maps]
    if without or not files:
        raise DataError(
            f"folder {str(path)!r}: {len(without)} of {len(files)} images have no label map in labels/ "
            f"({', '.join(ENDINGS)}), such as {without[:3]}"
        )
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[npt.NDArray[np.int32]] = []
    for file in files:
        image, label = _pair(file, maps[file.stem])
        if size is not None:
            image = image.resize(size[::-1], BILINEAR)
            label = _nearest(label[None], size)[0]
        elif images and image.size != images[0].shape[1::-1]:
            raise DataError(f"folder {str(path)!r}: images differ in size; name data.image_size")
        images.append(np.asarray(image))
        labels.append(label)
    return np.stack(images), np.stack(labels), ()


def _pair(file: Path, labels: Path) -> tuple[Image, npt.NDArray[np.int32]]:
    """An image of 8 bits and its label map, which lie upon each other."""
    from edakari.tasks.images import eight_bits, orientation, read_image, read_label_map

    image, label = eight_bits(read_image(file)), read_label_map(labels)
    ways = orientation(file), orientation(labels)
    if ways[0] != ways[1]:
        raise DataError(
            f"label map {labels}: its EXIF orientation is {ways[1]} and that of {file} is {ways[0]}, so how they lie "
            "upon each other cannot be told; save the image turned, without the tag"
        )
    if image.size != label.shape[::-1]:
        raise DataError(
            f"label map {labels}: it has {label.shape[1]}x{label.shape[0]} pixels and its image {file} "
            f"{image.width}x{image.height}; one number for each pixel is needed"
        )
    return image, label


def _nearest(labels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Label maps [N, H, W] at another size, each pixel that of the nearest place."""
    rows, columns = ((np.arange(new) + 0.5) * old / new for new, old in zip(size, labels.shape[1:], strict=True))
    return labels[:, rows.astype(int)][:, :, columns.astype(int)]


class MapBatches:
    """Batches (float32 [N, C, H, W], int64 [N, H, W]) of images and maps in memory, mirrored and shifted together.

    Args:
        source: images and their label maps.
        order: order of the images in batches.
        pixels: how images become the network's input; its mirroring and shifting are those of the maps too.
        ignored: label of pixels that were shifted in from outside.
    """

    def __init__(self, source: Arrays, order: Order, pixels: Pixels, ignored: int) -> None:
        self.source, self.order, self.pixels, self.ignored = source, order, pixels, ignored
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return len(self.order) - self.first

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass is; decides order and augmentation."""
        self.epoch = epoch

    def skip(self, count: int) -> MapBatches:
        """The same epoch without its first batches."""
        rest = MapBatches(self.source, self.order, self.pixels, self.ignored)
        rest.epoch, rest.first = self.epoch, self.first + count
        return rest

    def __iter__(self) -> Iterator[Labelled]:
        colours = dc.replace(self.pixels, pad=0, flip=False)
        for number, indices in enumerate(self.order.batches(self.epoch, self.first), self.first):
            images = torch.from_numpy(self.source.images[indices])
            labels = torch.from_numpy(self.source.labels[indices]).long()
            generator = None
            if self.pixels.augments:
                seeds = np.random.SeedSequence((self.order.seed, self.epoch, number, Processes.here().rank))
                generator = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
                images, labels = self._moved(images, labels, generator)
            yield colours(images, generator if self.pixels.jitter else None), labels

    def _moved(
        self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Half of the images mirrored, all shifted by up to `pad` pixels, black coming in; maps with them."""
        count, (height, width), pad = len(images), labels.shape[1:], self.pixels.pad
        if self.pixels.flip:
            mirrored = torch.rand(count, generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
            labels = torch.where(mirrored[:, None, None], labels.flip(2), labels)
        if pad:
            tops, lefts = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
            rows = (tops[:, None] + torch.arange(height))[:, :, None]
            columns = (lefts[:, None] + torch.arange(width))[:, None, :]
            which = torch.arange(count)[:, None, None]
            images = functional.pad(images, (0, 0, pad, pad, pad, pad))[which, rows, columns]
            labels = functional.pad(labels, (pad,) * 4, value=self.ignored)[which, rows, columns]
        return images, labels
