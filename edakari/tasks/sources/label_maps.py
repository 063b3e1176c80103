"""Images with label maps, both read on access: a class at every pixel."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.optional import needs
from edakari.errors import DataError
from edakari.tasks.sources.examples import Broken, Wanted, at_index
from edakari.tasks.sources.listing import READERS, sizes_on_disk
from edakari.tasks.sources.mending import Fault, found_in, judged
from edakari.tasks.sources.npz import CLASSES
from edakari.tasks.sources.packed import Packed, existing

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["MappedImages", "Numbering", "Pairs", "largest_number", "mapped", "require_map", "stored_map", "usable"]

UNLABELLED = -1
"""Label of stored values that stand for no class, before `ignore_index` takes its place."""
TABLE = 2**17
"""Largest span of stored values for which labels are looked up in a table."""


@dc.dataclass(frozen=True, eq=False)
class Numbering:
    """Labels of the values that a map stores: numbers, or colours as 24 bits.

    Args:
        values: the stored values, int64 [n], sorted.
        labels: label of each, int64 [n]; -1 where pixels do not count.
        colours: whether the values are colours.
    """

    values: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    colours: bool = False

    @classmethod
    def of(cls, labels: Mapping[int, int], colours: bool = False) -> Numbering:
        """Make a numbering of labels by stored value; a label below 0 does not count."""
        values = np.array(sorted(labels), np.int64)
        return cls(values, np.array([max(labels[value], UNLABELLED) for value in sorted(labels)], np.int64), colours)

    def ignoring(self, value: int) -> Numbering:
        """The same, where pixels of a stored value do not count unless it is a class."""
        if self.colours or value in self.values:
            return self
        return Numbering.of({**dict(zip(self.values.tolist(), self.labels.tolist(), strict=True)), value: UNLABELLED})

    def __call__(self, stored: npt.NDArray[Any], ignored: int) -> npt.NDArray[np.int64]:
        """Labels of a map.

        Args:
            stored: numbers, integers [H, W]; or colours, uint8 [H, W, 3].
            ignored: label of pixels that do not count.

        Returns:
            int64 [H, W].

        Raises:
            DataError: a value has no label.
        """
        codes = stored.astype(np.int64)
        if self.colours:
            codes = (codes[..., 0] << 16) + (codes[..., 1] << 8) + codes[..., 2]
        low, span = self.values[0], int(self.values[-1] - self.values[0]) + 1
        if span <= TABLE:
            # some ten times as fast as a search
            table = np.zeros(span, np.int64)
            table[self.values - low] = np.arange(len(self.values))
            at = table[np.clip(codes - low, 0, span - 1)]
        else:
            at = np.minimum(np.searchsorted(self.values, codes), len(self.values) - 1)
        unknown = codes[self.values[at] != codes]
        if unknown.size:
            found = np.unique(unknown)[:4].tolist()
            said = [f"#{code:06x}" for code in found] if self.colours else found
            raise DataError(f"{unknown.size:,} of its pixels have values that stand for no class, such as {said}")
        labels = self.labels[at]
        return np.where(labels == UNLABELLED, ignored, labels)


@dc.dataclass(frozen=True, eq=False)
class Pairs:
    """Images and their label maps as a format's reader finds them.

    Args:
        where: the source, as the subject of a sentence in errors and notes.
        root: folder that the paths are relative to.
        images: paths of the images, with forward slashes.
        maps: path of the label map of each image.
        classes: names in order of the labels.
        numbering: from what maps store to labels.
    """

    where: str
    root: Path
    images: Sequence[str]
    maps: Sequence[str]
    classes: tuple[str, ...]
    numbering: Numbering


@dc.dataclass(frozen=True, eq=False)
class MappedImages:
    """Images on the disk with their label maps; see `edakari.tasks.sources.examples.Examples`.

    Args:
        where: the source, as the subject of a sentence in errors.
        root: folder that the paths are relative to.
        images: paths of the images.
        maps: paths of the label maps.
        sizes: height and width of each image, int32 [N, 2].
        classes: names in order of the labels.
        numbering: from what maps store to labels.
        ignore_index: label of pixels that do not count.
        notes: what a reader of the results should know about the data.
    """

    where: str
    root: Path
    images: Packed
    maps: Packed
    sizes: npt.NDArray[np.int32]
    classes: tuple[str, ...]
    numbering: Numbering
    ignore_index: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        with needs("train", "reading annotated images"):
            from torchvision import tv_tensors

            from edakari.tasks.images import read_pixels

        index = at_index(index, len(self))
        path, labels = self.root / self.images.text(index), self.root / self.maps.text(index)
        image = tv_tensors.Image(read_pixels(path))
        stored = stored_map(path, labels, self.numbering.colours)
        try:
            found = self.numbering(stored, self.ignore_index)
        except DataError as error:
            raise DataError(
                f"{self.where}: label map {labels}: {error}; there are {len(self.classes)} classes, and pixels that do "
                f"not count have {self.ignore_index}"
            ) from error
        return image, {"image_id": index, "map": tv_tensors.Mask(torch.from_numpy(found))}


def mapped(pairs: Pairs, wanted: Wanted) -> MappedImages:
    """Make examples of images and label maps; what is missing or of another size is treated by the policy.

    Args:
        pairs: the images and label maps.
        wanted: what the task asks for.

    Raises:
        DataError: something is broken and the policy is "stop", nothing is left, or the classes are not those wanted.
    """
    if wanted.classes is not None and pairs.classes != wanted.classes:
        raise DataError(
            f"{pairs.where}: it has other classes than the training data: {len(pairs.classes)} "
            f"({list(pairs.classes)[:4]}), where {len(wanted.classes)} ({list(wanted.classes)[:4]}) are known"
        )
    if len(pairs.classes) < 2:
        raise DataError(f"{pairs.where}: all pixels are of one class; there is nothing to tell apart")
    if not pairs.images:
        raise DataError(f"{pairs.where}: there are no images")
    images, maps = Packed.texts(pairs.images), Packed.texts(pairs.maps)
    stays, sizes, notes = usable(pairs.where, pairs.root, images, maps, sizes_on_disk(pairs.root, maps), wanted.broken)
    return MappedImages(
        pairs.where,
        pairs.root,
        images.take(stays),
        maps.take(stays),
        sizes,
        pairs.classes,
        pairs.numbering.ignoring(wanted.ignore_index),
        wanted.ignore_index,
        notes,
    )


def usable(
    where: str, root: Path, images: Packed, maps: Packed, sizes_of_maps: npt.NDArray[np.int32], broken: Broken
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], tuple[str, ...]]:
    """Find the images that are there and have a map of their size; the policy says what happens to others.

    Args:
        where: the source, as the subject of a sentence.
        root: folder that the paths are relative to.
        images: paths of the images.
        maps: path of the map of each image.
        sizes_of_maps: height and width of each map, int32 [N, 2]; -1 where it cannot be read.
        broken: the policy; maps are not clipped, but removed.

    Returns:
        Indices of the images, int64 [n]; their heights and widths, int32 [n, 2]; and notes about what is removed.

    Raises:
        DataError: something is broken and the policy is "stop", or nothing is left.
    """
    sizes, faults = sizes_on_disk(root, images), np.zeros(len(images), np.int8)
    faults[(sizes != sizes_of_maps).any(1)] = Fault.MAP_SIZE
    faults[(sizes_of_maps < 0).any(1) | ~existing(root, maps)] = Fault.NO_MAP
    faults[(sizes < 0).any(1)] = Fault.MISSING
    found = found_in(faults, lambda at: f"{images.text(at)} with {maps.text(at)}")
    stays = np.flatnonzero(faults == Fault.NONE)
    if not len(stays):
        raise DataError(f"{where}: none of its {len(images):,} images can be used: {', '.join(map(str, found))}")
    notes = judged(where, len(images), found, "stop" if broken == "stop" else "drop")
    return stays, sizes[stays], notes


def stored_map(image: Path, labels: Path, colours: bool) -> npt.NDArray[Any]:
    """Read what a label map stores, and check that it lies upon its image.

    Args:
        image: path of the image.
        labels: path of the label map.
        colours: whether colours stand for classes.

    Returns:
        Numbers, int32 [H, W]; or colours, uint8 [H, W, 3].

    Raises:
        DataError: a file cannot be read, or they differ in size or rotation.
    """
    from edakari.tasks.images import image_size, orientation, read_colours, read_label_map

    found = read_colours(labels) if colours else read_label_map(labels)
    ways, size = (orientation(image), orientation(labels)), image_size(image)
    if ways[0] != ways[1]:
        raise DataError(
            f"label map {labels}: its EXIF orientation is {ways[1]} and that of {image} is {ways[0]}, so how they lie "
            "upon each other cannot be told; save the image turned, without the tag"
        )
    if size != found.shape[:2]:
        raise DataError(
            f"label map {labels}: it has {found.shape[1]}x{found.shape[0]} pixels and its image {image} "
            f"{size[1]}x{size[0]}; one number for each pixel is needed"
        )
    return found


def largest_number(where: str, root: Path, maps: Sequence[str], ignored: int) -> int:
    """Read label maps for the largest number of a class; -1 where all pixels are ignored.

    Args:
        where: the source, as the subject of a sentence.
        root: folder that the paths are relative to.
        maps: paths of the label maps.
        ignored: number of pixels that do not count.

    Raises:
        DataError: a file cannot be read, or has a number that is no class.
    """
    from edakari.tasks.images import read_label_map

    def largest(file: str) -> int:
        stored = read_label_map(root / file)
        counted = stored[stored != ignored]
        low, high = (int(counted.min()), int(counted.max())) if counted.size else (0, -1)
        if low < 0 or high >= CLASSES:
            raise DataError(
                f"{where}: label map {root / file} has numbers from {low} to {high}; classes are counted from 0 on, at "
                f"most {CLASSES:,}, and pixels that do not count have {ignored}"
            )
        return high

    with ThreadPoolExecutor(READERS) as pool:
        return max(pool.map(largest, maps), default=-1)


def require_map(what: str, wanted: Wanted) -> None:
    """Raise an error where something else than a class at every pixel is wanted of a format of label maps.

    Raises:
        DataError: the target is another.
    """
    if wanted.target != "map":
        raise DataError(f"{what} has a class at every pixel, but {wanted.target} are wanted")
