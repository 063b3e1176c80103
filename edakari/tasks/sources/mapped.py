"""Images of a map-style data set, with labels or numbers."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.arguments import found_as
from edakari.core.optional import needs
from edakari.core.user_code import cause
from edakari.errors import DataError, EdakariError
from edakari.tasks.sources.arrays import Labels
from edakari.tasks.sources.npz import CLASSES

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Mapped", "item_of", "labelled", "picture_of"]

LABEL = "number of its class"
LOOKED_AT = 20
"""Largest number of images whose sizes are compared."""
STORED = ("targets", "labels")
"""Attributes in which data sets, such as torchvision's, hold all labels."""


@dc.dataclass(frozen=True, eq=False)
class Mapped:
    """Images of a map-style data set, read on access.

    Args:
        dataset: the data set; an item is an image (see `picture_of`), and what it shows.
        indices: indices of the images in the data set, int64 [N].
        labels: labels, int64 [N], or numbers, float32 [N, K].
        classes: name of each class.
        channels: channels of every image.
        where: the data set, as the subject of a sentence.
    """

    dataset: Any
    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[Any]
    classes: tuple[str, ...]
    channels: int
    where: str

    def take(self, indices: npt.NDArray[np.int64]) -> Mapped:
        """The images at these indices, in their order."""
        return dc.replace(self, indices=self.indices[indices], labels=self.labels[indices])

    def image(self, index: int) -> Image.Image:
        """Read one image as a PIL image.

        Raises:
            DataError: the item cannot be read, or is no image and label.
        """
        place = int(self.indices[index])
        return picture_of(item_of(self.dataset, place, self.where, LABEL)[0], f"{self.where}, item {place}")

    def pixels(self, index: int) -> torch.Tensor:
        """Read one image as a tensor: uint8 [1 or 3, H, W], or float32 [1, H, W] from 0 to 1.

        Raises:
            DataError: the item cannot be read, or is no image and label.
        """
        from edakari.tasks.images import tensor_of

        return tensor_of(self.image(index))

    def common_size(self) -> tuple[int, int] | None:
        """Return height and width if some images from all over the data set have the same ones; else None.

        Raises:
            DataError: an item cannot be read, or is no image and label.
        """
        step = -(-len(self.indices) // LOOKED_AT)
        width, height = self.image(0).size
        same = all(self.image(index).size == (width, height) for index in range(step, len(self.indices), step))
        return (height, width) if same else None

    def identity(self) -> bytes:
        """Bytes by which data sets are told apart; the pixels are not among them."""
        return f"{type(self.dataset).__qualname__} {len(self.dataset)} {self.indices.tolist()}".encode()


def labelled(dataset: Any, where: str, classes: Sequence[str] | None = None) -> Mapped:
    """Check a map-style data set of images and labels, and collect its labels.

    Labels are taken from its attribute `targets` or `labels` if it has one of its length; else every item is read once.

    Args:
        dataset: the data set. `classes`, a list of names, may say what labels stand for.
        where: the data set, as the subject of a sentence.
        classes: the required classes, in order of their labels; None takes the data set's own.

    Raises:
        DataError: it has no length or no items, an item is no image and label, or there is only one class.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or not len(dataset):
        raise DataError(
            f"{where}: a map-style data set is needed, with a length and items by index, found "
            f"{type(dataset).__name__}" + (" of length 0" if hasattr(dataset, "__len__") else "")
        )
    first = picture_of(item_of(dataset, 0, where, LABEL)[0], f"{where}, item 0")
    labels = _labels(dataset, where)
    own = getattr(dataset, "classes", None)
    names = tuple(map(str, classes or own or range(int(labels.max()) + 1)))
    if own is not None and tuple(map(str, own)) != names:
        raise DataError(f"{where}: it has other classes than the training data: {list(own)[:4]}, not {list(names)[:4]}")
    if labels.min() < 0 or labels.max() >= min(len(names), CLASSES):
        raise DataError(
            f"{where}: labels range over {labels.min()} to {labels.max()}, but there are {len(names)} classes (0 to "
            f"{len(names) - 1})"
        )
    if classes is None and len(np.unique(labels)) < 2:
        raise DataError(f"{where}: all {len(labels)} labels are {labels[0]}; there is only one class to tell apart")
    return Mapped(dataset, np.arange(len(dataset)), labels, names, 3 if first.mode == "RGB" else 1, where)


def _labels(dataset: Any, where: str) -> Labels:
    for name in STORED:
        stored = getattr(dataset, name, None)
        if stored is not None and hasattr(stored, "__len__") and len(stored) == len(dataset):
            found: Sequence[Any] = stored
            break
    else:
        found = [item_of(dataset, index, where, LABEL)[1] for index in range(len(dataset))]
    try:
        values = torch.as_tensor(np.array([int(each) for each in found]))
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a label is the number of a class, found {cause(error)}") from error
    return values.long().numpy()


def item_of(dataset: Any, index: int, where: str, what: str) -> tuple[Any, Any]:
    """Return an item of a data set: an image, and what it shows.

    Args:
        dataset: the data set.
        index: index of the item.
        where: the data set, as the subject of a sentence.
        what: what stands beside the image, for errors.

    Raises:
        DataError: the item cannot be read, or is no pair.
    """
    try:
        item = dataset[index]
    except EdakariError:
        raise
    except Exception as error:
        raise DataError(f"{where}, item {index} cannot be read: {cause(error)}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"{where}, item {index}: expected a pair (image, {what}), found {found_as(item)}")
    return item[0], item[1]


def picture_of(image: Any, where: str) -> Image.Image:
    """Return a PIL image of a PIL image, or of uint8 or float pixels from 0 to 1.

    Args:
        image: PIL image, tensor [C, H, W] or array [H, W, C]; [H, W] is grey.
        where: the item, as the subject of a sentence.

    Raises:
        DataError: it is none of these.
    """
    with needs("train", "reading images"):
        from PIL import Image

    if isinstance(image, Image.Image):
        return image if image.mode in ("L", "F", "RGB") else image.convert("RGB")
    if isinstance(image, torch.Tensor):
        pixels = image.permute(1, 2, 0).numpy() if image.ndim == 3 else image.numpy()
    else:
        pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if not (colour or pixels.ndim == 2) or pixels.dtype.kind not in "uf":
        raise DataError(
            f"{where}: expected a PIL image, pixels [C, H, W] as a tensor or [H, W, C] as an array, uint8 or float "
            f"from 0 to 1, found {type(image).__name__} {getattr(image, 'dtype', '')} {list(np.shape(image))}"
        )
    if pixels.dtype == np.uint8:
        return Image.fromarray(pixels)
    if pixels.dtype.kind == "u" or not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise DataError(f"{where}: float pixels lie from 0 to 1, found {pixels.min()} to {pixels.max()}")
    return Image.fromarray((pixels * 255).round().astype(np.uint8))
