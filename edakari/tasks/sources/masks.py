"""Masks of single objects: polygons and run-length codes as compact bytes, decoded by faster-coco-eval."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.core.reading import Unreadable

__all__ = ["decoded", "polygon_bytes", "rle_bytes", "rle_size"]

POLYGONS, CODES = b"P", b"R"
LARGEST = 178_956_970
"""Pixels of a mask, as of an image: a few bytes of codes could claim any size."""


def polygon_bytes(polygons: Sequence[Any]) -> bytes:
    """Pack polygons: each a list of x and y in pixels, at least three points.

    Raises:
        Unreadable: there is none, or one is no list of finite numbers in pairs.
    """
    try:
        parts = [np.asarray(polygon, np.float64).reshape(-1) for polygon in polygons]
    except (TypeError, ValueError) as error:
        raise Unreadable("a polygon has other things than numbers") from error
    # two points enclose nothing; COCO has such rests beside whole polygons
    parts = [part for part in parts if len(part) >= 6]
    if not parts or any(len(part) % 2 or not np.isfinite(part).all() for part in parts):
        raise Unreadable("it has no polygon of three points or more")
    lengths = np.array([len(part) for part in parts], np.int32)
    return POLYGONS + struct.pack("<i", len(parts)) + lengths.tobytes() + np.concatenate(parts).tobytes()


def rle_bytes(code: Any) -> bytes:
    """Pack run-length codes: a mapping with `size`, [height, width], and `counts`, numbers or COCO's compressed text.

    Raises:
        Unreadable: it is of another form.
    """
    size, counts = (code.get("size"), code.get("counts")) if isinstance(code, dict) else (None, None)
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise Unreadable("its run-length codes have no size [height, width]")
    height, width = size
    if height * width > LARGEST:
        raise Unreadable(f"its mask has {height}x{width} pixels; at most {LARGEST:,} are read")
    if isinstance(counts, list):
        if not all(isinstance(count, int) and 0 <= count <= LARGEST for count in counts):
            raise Unreadable("its run-length codes are no counts of pixels")
        counts = _library().frPyObjects({"size": size, "counts": counts}, height, width)["counts"]
    elif isinstance(counts, str) and counts.isascii():
        counts = counts.encode()
    if not isinstance(counts, bytes):
        raise Unreadable("its run-length codes are no counts of pixels")
    return CODES + struct.pack("<ii", height, width) + counts


def rle_size(packed: bytes) -> tuple[int, int] | None:
    """Return height and width that run-length codes state; None for polygons."""
    return struct.unpack_from("<ii", packed, 1) if packed[:1] == CODES else None


def decoded(packed: Sequence[bytes], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Decode the masks of an image, uint8 [n, height, width].

    Raises:
        Unreadable: run-length codes are damaged.
    """
    masks = np.zeros((len(packed), height, width), np.uint8)
    for number, part in enumerate(packed):
        try:
            masks[number] = _library().decode(_code(part, height, width))
        except (ValueError, RuntimeError) as error:
            raise Unreadable(f"the mask of its object {number} is damaged: {error}") from error
    return masks


def _code(packed: bytes, height: int, width: int) -> Any:
    """Compressed codes of a mask as the library takes them."""
    size = rle_size(packed)
    if size is not None:
        return {"size": list(size), "counts": packed[9:]}
    (count,) = struct.unpack_from("<i", packed, 1)
    lengths = np.frombuffer(packed, np.int32, count, 5)
    numbers = np.frombuffer(packed, np.float64, int(lengths.sum()), 5 + 4 * count)
    polygons = [part.tolist() for part in np.split(numbers, np.cumsum(lengths)[:-1])]
    library = _library()
    return library.merge(library.frPyObjects(polygons, height, width))


def _library() -> Any:
    with needs("detection", "reading masks of objects"):
        from faster_coco_eval.core import mask
    return mask
