"""Masks of objects in Hugging Face data sets, as COCO-like columns hold them: polygons, run-length codes or images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.core.reading import Unreadable, because
from edakari.errors import DataError
from edakari.tasks.sources.masks import decoded, polygon_bytes, rle_bytes, rle_size

__all__ = ["masks_of_objects"]


def masks_of_objects(values: Sequence[Any], size: tuple[int, int], where: str) -> npt.NDArray[np.uint8]:
    """Decode the masks of an image's objects.

    Args:
        values: mask of each object: polygons (lists of x and y in pixels), one polygon (numbers, or pairs of them), a
            run-length code (`size` and `counts`), or an image of the size of the whole one, which is not 0 inside of
            the object (`bytes` or `path`).
        size: height and width of the image.
        where: the item, as the subject of a sentence.

    Returns:
        Masks of 0 and 1, uint8 [n, height, width].

    Raises:
        DataError: a mask is missing, damaged, of another form, or of another size than the image.
    """
    masks = np.zeros((len(values), *size), np.uint8)
    for number, value in enumerate(values):
        try:
            masks[number] = _mask(value, size, f"{where}, mask {number}")
        except Unreadable as error:
            raise DataError(f"{where}: the mask of its object {number} cannot be read: {because(error)}") from error
    return masks


def _mask(value: Any, size: tuple[int, int], where: str) -> npt.NDArray[np.uint8]:
    if isinstance(value, Mapping) and "counts" not in value:
        found = _image(value, where)
        _require_size(found.shape, size)
        return found
    packed = rle_bytes(dict(value)) if isinstance(value, Mapping) else polygon_bytes(_polygons(value))
    _require_size(rle_size(packed) or size, size)
    mask: npt.NDArray[np.uint8] = decoded([packed], *size)[0]
    return mask


def _require_size(found: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(found) != size:
        raise Unreadable(f"it has {found[1]}x{found[0]} pixels, but its image has {size[1]}x{size[0]}")


def _image(value: Mapping[str, Any], where: str) -> npt.NDArray[np.uint8]:
    from edakari.tasks.images import read_label_map
    from edakari.tasks.sources.huggingface import file_in

    pixels: npt.NDArray[np.uint8] = (read_label_map(file_in(value, where)) != 0).astype(np.uint8)
    return pixels


def _polygons(value: Any) -> Sequence[Any]:
    """Polygons of lists of numbers, of one list of numbers, or of one list of points."""
    if not isinstance(value, list) or not value:
        raise Unreadable("it is none of polygons, a run-length code and an image")
    if all(isinstance(part, int | float) for part in value) or all(_point(part) for part in value):
        return [value]
    return value


def _point(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and all(isinstance(each, int | float) for each in part)
