"""From what a format's reader finds to examples: broken annotations are treated by the policy."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edakari.errors import DataError
from edakari.tasks.sources.examples import Wanted
from edakari.tasks.sources.masks import rle_size
from edakari.tasks.sources.mending import Fault, found_in, inside_image, judged
from edakari.tasks.sources.objects import AnnotatedImages, Listed, Objects, Rows
from edakari.tasks.sources.packed import existing

__all__ = ["annotated", "labels_by_name"]


def annotated(listed: Listed, rows: Rows, wanted: Wanted) -> AnnotatedImages:
    """Make examples of what a format's reader found, and treat broken annotations by the policy.

    Args:
        listed: the images and classes.
        rows: the objects.
        wanted: what the task asks for.

    Raises:
        DataError: something is broken and the policy is "stop", or no image or no object is left.
    """
    objects = rows.packed()
    if not len(listed.files):
        raise DataError(f"{listed.where}: it lists no images")
    there = existing(listed.root, listed.files) & (listed.sizes >= 0).all(1)
    if not there.any():
        raise DataError(
            f"{listed.where}: none of its {len(there):,} images is there and readable, such as "
            f"{str(listed.root / listed.files.text(0))!r}"
        )
    boxes, faults = _faults(listed, objects, there, wanted)
    found = found_in(faults, lambda at: _name(listed, objects, at))
    missing = [listed.files.text(int(at)) for at in np.flatnonzero(~there)[:3]]
    lost = int((~there).sum())
    notes = judged(listed.where, len(faults), found, wanted.broken)
    if lost and wanted.broken == "stop":
        raise DataError(
            f"{listed.where}: {lost:,} of {len(there):,} images are missing or unreadable, such as {', '.join(missing)}"
        )
    if lost:
        notes = (
            *notes,
            f"{listed.where}: {lost:,} of {len(there):,} images are missing or unreadable ({', '.join(missing)})",
        )
    stays = faults == Fault.NONE
    if wanted.broken == "clip":
        stays |= (faults == Fault.OUTSIDE) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    return _clean(listed, dc.replace(objects, boxes=boxes), np.flatnonzero(there), np.flatnonzero(stays), wanted, notes)


def labels_by_name(where: str, names: Sequence[str], wanted: Wanted) -> dict[str, int]:
    """Labels of the classes that a source declares: by the classes that are wanted, else in the source's order.

    Args:
        where: the source, as the subject of a sentence.
        names: the classes that it declares.
        wanted: what the task asks for.

    Raises:
        DataError: there are no classes, two have one name, or one is not among those wanted.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if not names or twice:
        raise DataError(f"{where}: " + (f"two classes are named {twice[0]!r}" if twice else "it declares no classes"))
    unknown = sorted(set(names) - set(wanted.classes or names))
    if unknown:
        raise DataError(
            f"{where}: it has other classes than the training data: unknown {unknown[:4]}, where "
            f"{list(wanted.classes or ())[:8]} are known"
        )
    return {name: label for label, name in enumerate(wanted.classes or names)}


def _faults(
    listed: Listed, objects: Objects, there: npt.NDArray[np.bool_], wanted: Wanted
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Boxes, clipped to their images; and the fault of each object."""
    known = objects.images >= 0
    at = np.where(known, objects.images, 0)
    boxes, faults = inside_image(objects.boxes, np.where(known[:, None], listed.sizes[at], 0))
    faults[known & ~there[at]] = Fault.MISSING
    if wanted.target == "masks":
        for index in np.flatnonzero(known):
            mask = objects.masks[int(index)]
            size = rle_size(mask)
            stated = listed.sizes[at[index]]
            if not mask:
                faults[index] = Fault.NO_MASK
            elif size is not None and stated.any() and size != tuple(stated):
                faults[index] = Fault.MASK_SIZE
    return boxes, np.where(objects.faults, objects.faults, faults).astype(np.int8)


def _name(listed: Listed, objects: Objects, index: int) -> str:
    """The file of an object, and the reader's remark or its box."""
    image = int(objects.images[index])
    box = ", ".join(f"{side:g}" for side in objects.boxes[index])
    said = objects.remarks.get(index, f"box {box}")
    return f"{listed.files.text(image)}: {said}" if image >= 0 else said


def _clean(
    listed: Listed,
    objects: Objects,
    images: npt.NDArray[np.int64],
    stays: npt.NDArray[np.int64],
    wanted: Wanted,
    notes: tuple[str, ...],
) -> AnnotatedImages:
    """Examples of these images and objects alone."""
    number = np.full(len(listed.files), -1, np.int64)
    number[images] = np.arange(len(images))
    objects = objects.take(stays)
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    areas = np.where(np.isfinite(objects.areas), objects.areas, sides.prod(1))
    objects = dc.replace(objects, images=number[objects.images], areas=areas.astype(np.float32))
    starts = np.searchsorted(objects.images, np.arange(len(images) + 1))
    empty = int((np.diff(starts) == 0).sum())
    if empty == len(images):
        raise DataError(f"{listed.where}: none of its {len(images):,} images has an annotated object")
    if empty:
        notes = (*notes, f"{listed.where}: {empty:,} of {len(images):,} images have no object; they stay")
    rest = dc.replace(
        listed, files=listed.files.take(images), sizes=listed.sizes[images], ids=listed.ids[images], where=listed.where
    )
    return AnnotatedImages(rest, objects, starts.astype(np.int64), wanted.target, notes)
