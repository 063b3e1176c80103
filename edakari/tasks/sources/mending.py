"""Broken annotations: they are counted and named, and a policy says what happens to them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edakari.errors import DataError
from edakari.tasks.sources.examples import Broken

__all__ = ["FAULTS", "Fault", "Found", "found_in", "inside_image", "judged"]

FAULTS = (
    "",
    "no area",
    "beyond the image",
    "unknown class",
    "an image that is not listed",
    "a missing image",
    "no box of four numbers",
    "a wrong number of keypoints",
    "no mask, or a damaged one",
    "a mask of another size than the image",
    "not in the form that the format demands",
    "a missing or unreadable map",
    "a map of another size than the image",
)
"""What can be wrong with an annotation, by number; 0 is nothing."""
NAMED = 3
"""Number of broken annotations that a message names for each fault."""
SLACK = 1.0
"""Largest distance in pixels by which a rounded box reaches beyond its image."""


class Fault:
    """Numbers of `FAULTS`."""

    NONE, NO_AREA, OUTSIDE, CLASS, UNLISTED, MISSING, NO_BOX, KEYPOINTS, NO_MASK, MASK_SIZE, FORM, NO_MAP, MAP_SIZE = (
        range(13)
    )


@dc.dataclass(frozen=True)
class Found:
    """One kind of broken annotation.

    Args:
        what: what they have in common, one of `FAULTS`.
        count: number of them.
        names: the first few, each with its file.
    """

    what: str
    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        rest = "; ..." if self.count > len(self.names) else ""
        return f"{self.what}: {self.count:,} ({'; '.join(self.names)}{rest})"


def found_in(faults: npt.NDArray[np.int8], name: Callable[[int], str]) -> tuple[Found, ...]:
    """Count the faults of annotations.

    Args:
        faults: number of the fault of each annotation, int8 [n].
        name: function from an annotation's index to a text that says where it is.
    """
    counts = np.bincount(faults, minlength=len(FAULTS))
    return tuple(
        Found(FAULTS[fault], int(counts[fault]), tuple(name(int(at)) for at in np.flatnonzero(faults == fault)[:NAMED]))
        for fault in range(1, len(FAULTS))
        if counts[fault]
    )


def judged(where: str, total: int, found: tuple[Found, ...], broken: Broken) -> tuple[str, ...]:
    """Return notes about broken annotations, or raise an error where the policy is to stop.

    Args:
        where: the source, as the subject of a sentence.
        total: number of annotations.
        found: what is broken.
        broken: the policy.

    Raises:
        DataError: something is broken and the policy is "stop".
    """
    if not found:
        return ()
    many = sum(each.count for each in found)
    listed = ", ".join(str(each) for each in found)
    if broken == "stop":
        raise DataError(
            f'{where}: {many:,} of {total:,} annotations are broken: {listed}; mend them, or let the policy "drop" '
            'remove them, or "clip" cut boxes to their image and remove the rest'
        )
    done = "removed" if broken == "drop" else "clipped to the image, or removed where nothing is left"
    return (f"{where}: {many:,} of {total:,} annotations are broken and {done}: {listed}",)


def inside_image(
    boxes: npt.NDArray[np.float32], sizes: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Clip boxes to their images, and say what was wrong with each.

    Args:
        boxes: left, top, right and bottom in pixels, float32 [n, 4].
        sizes: height and width of the image of each box, int32 [n, 2]; 0 where unknown.

    Returns:
        Clipped boxes; faults, int8 [n]: `Fault.NO_AREA`, `Fault.OUTSIDE`, or 0. Boxes that reach beyond the image by at
        most one pixel, as rounding does, have no fault.
    """
    limits = np.where(sizes > 0, sizes, np.inf)[:, [1, 0, 1, 0]].astype(np.float32)
    finite = np.asarray(np.isfinite(boxes).all(1))
    clean = np.where(finite[:, None], boxes, 0)
    clipped = np.clip(clean, 0, limits)
    faults = np.zeros(len(boxes), np.int8)
    faults[np.abs(clipped - clean).max(1) > SLACK] = Fault.OUTSIDE
    empty = _empty(clean) | ~finite
    faults[empty | (_empty(clipped) & (faults == 0))] = Fault.NO_AREA
    return clipped, faults


def _empty(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray((sides <= 0).any(1))
