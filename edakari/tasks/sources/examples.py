"""The contract of annotated images, which detection, pose and segmentation build on; subsets and concatenation.

A source fulfils `Examples` with three members. It may have more, for which these functions ask:

    notes: tuple[str, ...]                        what a reader of the results should know about the data
    joints: tuple[str, ...]                       names of the K keypoints
    flip_pairs: tuple[tuple[int, int], ...]       keypoints that change places when an image is mirrored
    sizes: int32 array [N, 2]                     height and width of each image, 0 where unknown
    labels_of(index) -> int64 array [n]           labels of an image's objects, without decoding the image
    posed_of(index) -> bool array [n]             which of them are single and have labelled keypoints, likewise
    channels: int                                 channels of the stored images, where all of them are in memory
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edakari.errors import DataError

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = [
    "Broken",
    "Chosen",
    "Examples",
    "ExamplesReader",
    "Joined",
    "Target",
    "Wanted",
    "at_index",
    "channels_of",
    "labels_of",
    "notes_of",
    "posed_of",
    "sizes_of",
]

Target = Literal["boxes", "masks", "keypoints", "map", "depth", "image"]
"""What a task learns: boxes; boxes with masks; boxes with keypoints; a class or the depth at every pixel; or only
images."""
Broken = Literal["stop", "drop", "clip"]
"""What happens to broken annotations: an error; removal; or clipping boxes to the image, and removal of the rest."""
Indices = npt.NDArray[np.int64]


@runtime_checkable
class Examples(Protocol):
    """Annotated images: any map-style data set of this form, of one `Target`.

    An item is an image, uint8 [3, H, W], rotated by its EXIF tag, and a target, a dict. All coordinates are pixels of
    that image. n may be 0: then `boxes` is [0, 4], `masks` [0, H, W] and so on. The keys of a target:

        image_id    int
        boxes       tv_tensors.BoundingBoxes, float32 [n, 4], XYXY, with canvas_size     boxes, masks, keypoints
        labels      int64 [n], 0 to len(classes) - 1                                     boxes, masks, keypoints
        area        float32 [n], pixels                                                  boxes, masks, keypoints
        iscrowd     bool [n]; True for a region of many objects, or a difficult one      boxes, masks, keypoints
        masks       tv_tensors.Mask, uint8 [n, H, W], 0 and 1                            masks
        keypoints   tv_tensors.KeyPoints, float32 [n, K, 2], x and y                     keypoints
        visible     int64 [n, K]; 0 is not labelled, 1 is hidden, 2 is visible           keypoints
        map         tv_tensors.Mask, int64 [H, W], labels and the ignored value          map
        depth       tv_tensors.Mask, float32 [H, W], 0 where it is not known             depth
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in order of the labels, without a background; empty for depths and images alone."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        """Read an image and its target."""
        ...


@dc.dataclass(frozen=True)
class Wanted:
    """What a task asks of a source of examples.

    Args:
        target: what each target must have.
        classes: required names in order of the labels, such as those of the training data; None takes the source's own.
        broken: what happens to broken annotations.
        ignore_index: label of pixels that do not count.
        scale: depth of the number 1 in stored depths.
    """

    target: Target = "boxes"
    classes: tuple[str, ...] | None = None
    broken: Broken = "clip"
    ignore_index: int = 255
    scale: float = 1.0

    def like(self, examples: Examples) -> Wanted:
        """The same with the classes of these examples."""
        return dc.replace(self, classes=tuple(examples.classes))


class ExamplesReader(Protocol):
    """What a format offers: a function from what stands behind the colon of `data.source` to examples."""

    def __call__(self, argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
        """Read training examples, and validation examples if the source has them.

        Raises:
            DataError: the source is missing, damaged, of another form, or lacks what is wanted.
        """
        ...


@dc.dataclass(frozen=True, eq=False)
class Chosen:
    """Some of the images of a source.

    Args:
        source: the examples.
        indices: indices of the images, int64, in the new order.
    """

    source: Examples
    indices: Indices

    @property
    def classes(self) -> tuple[str, ...]:
        """See `Examples`."""
        return tuple(self.source.classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the source."""
        return notes_of(self.source)

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the source's keypoints."""
        return tuple(getattr(self.source, "joints", ()))

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Keypoints of the source that change places in a mirrored image."""
        return tuple(getattr(self.source, "flip_pairs", ()))

    @property
    def channels(self) -> int | None:
        """Channels of the stored images; None where they are read from files."""
        return channels_of(self.source)

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of each image, 0 where unknown."""
        return sizes_of(self.source)[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        return self.source[int(self.indices[index])]

    def labels_of(self, index: int) -> Indices | None:
        """Labels of an image's objects; None where only decoding tells."""
        return labels_of(self.source, int(self.indices[index]))

    def posed_of(self, index: int) -> npt.NDArray[np.bool_]:
        """Which of an image's objects are single and have labelled keypoints."""
        return posed_of(self.source, int(self.indices[index]))


@dc.dataclass(frozen=True, eq=False)
class Joined:
    """Several sources of the same classes, one after the other.

    Args:
        sources: the examples, at least one source.
    """

    sources: tuple[Examples, ...]

    def __post_init__(self) -> None:
        for other in self.sources[1:]:
            for name in ("classes", "joints"):
                first, second = (tuple(getattr(each, name, ())) for each in (self.sources[0], other))
                if first != second:
                    raise DataError(f"sources of data have different {name}: {list(first)[:8]} and {list(second)[:8]}")

    @property
    def classes(self) -> tuple[str, ...]:
        """See `Examples`."""
        return tuple(self.sources[0].classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of all sources."""
        return tuple(dict.fromkeys(note for each in self.sources for note in notes_of(each)))

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the keypoints."""
        return tuple(getattr(self.sources[0], "joints", ()))

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Keypoints that change places in a mirrored image."""
        return tuple(getattr(self.sources[0], "flip_pairs", ()))

    @property
    def channels(self) -> int | None:
        """Channels of the stored images, 3 where sources differ; None where they are read from files."""
        found = {channels_of(each) for each in self.sources}
        return None if None in found else 3 if len(found) > 1 else found.pop()

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of each image, 0 where unknown."""
        return np.concatenate([sizes_of(each) for each in self.sources])

    def __len__(self) -> int:
        return sum(len(each) for each in self.sources)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        source, within = self._at(index)
        return source[within]

    def labels_of(self, index: int) -> Indices | None:
        """Labels of an image's objects; None where only decoding tells."""
        return labels_of(*self._at(index))

    def posed_of(self, index: int) -> npt.NDArray[np.bool_]:
        """Which of an image's objects are single and have labelled keypoints."""
        return posed_of(*self._at(index))

    def _at(self, index: int) -> tuple[Examples, int]:
        ends = np.cumsum([len(each) for each in self.sources])
        index = at_index(index, int(ends[-1]))
        which = int(np.searchsorted(ends, index, side="right"))
        return self.sources[which], index - (int(ends[which - 1]) if which else 0)


def labels_of(examples: Examples, index: int) -> Indices | None:
    """Return the labels of an image's objects without decoding the image, int64 [n]; None where that is impossible."""
    found = getattr(examples, "labels_of", None)
    return None if found is None else found(index)


def posed_of(examples: Examples, index: int) -> npt.NDArray[np.bool_]:
    """Return which of an image's objects are single and have labelled keypoints, bool [n]; decodes it if necessary."""
    found = getattr(examples, "posed_of", None)
    if found is not None:
        return np.asarray(found(index), np.bool_)
    _, target = examples[index]
    return np.asarray((target["visible"] > 0).any(1) & ~target["iscrowd"].bool())


def channels_of(examples: Examples) -> int | None:
    """Return the number of channels of the stored images, all of which are in memory; None where they are in files."""
    found: int | None = getattr(examples, "channels", None)
    return found


def sizes_of(examples: Examples) -> npt.NDArray[np.int32]:
    """Return height and width of each image without decoding, int32 [N, 2]; 0 where unknown."""
    found = getattr(examples, "sizes", None)
    return np.zeros((len(examples), 2), np.int32) if found is None else np.asarray(found, np.int32)


def notes_of(examples: Examples) -> tuple[str, ...]:
    """Return what a reader of the results should know about the examples, one sentence each."""
    notes: Sequence[str] = getattr(examples, "notes", ())
    return tuple(notes)


def at_index(index: int, count: int) -> int:
    """Return an index from 0 on; raise IndexError beyond the end, which ends plain iteration."""
    if not -count <= index < count:
        raise IndexError(f"index {index} of {count} images")
    return index % count
