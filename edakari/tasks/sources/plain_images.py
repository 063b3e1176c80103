"""Images without annotations: `images:FOLDER`, or `images:FILE.npz`.

A folder has images in it, in any subfolders, or `train/` and `val/` with these. An .npz file has `images`, uint8
[N, H, W, C] or [N, H, W].
"""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.errors import DataError
from edakari.tasks.sources.examples import Broken, Examples, Wanted, at_index
from edakari.tasks.sources.listing import TRAIN, VAL, first_there, image_files, sizes_on_disk
from edakari.tasks.sources.map_arrays import image_at
from edakari.tasks.sources.mending import Fault, found_in, judged
from edakari.tasks.sources.npz import read_arrays
from edakari.tasks.sources.packed import Packed

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["PlainArrays", "PlainImages", "images"]


@dc.dataclass(frozen=True, eq=False)
class PlainImages:
    """Images on the disk; see `edakari.tasks.sources.examples.Examples`.

    Args:
        root: folder that the paths are relative to.
        files: paths of the images.
        sizes: height and width of each image, int32 [N, 2].
        notes: what a reader of the results should know about the data.
    """

    root: Path
    files: Packed
    sizes: npt.NDArray[np.int32]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        with needs("train", "reading images"):
            from torchvision import tv_tensors

            from edakari.tasks.images import read_pixels

        index = at_index(index, len(self))
        return tv_tensors.Image(read_pixels(self.root / self.files.text(index))), {"image_id": index}


@dc.dataclass(frozen=True, eq=False)
class PlainArrays:
    """Images in memory; see `edakari.tasks.sources.examples.Examples`.

    Args:
        images: images, uint8 [N, H, W, 1 or 3].
    """

    images: npt.NDArray[np.uint8]
    classes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of the stored images, 1 or 3."""
        return int(self.images.shape[3])

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of each image, int32 [N, 2]."""
        return np.tile(np.array(self.images.shape[1:3], np.int32), (len(self), 1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        index = at_index(index, len(self))
        return image_at(self.images, index), {"image_id": index}


def images(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read a folder or an .npz file of images.

    Args:
        argument: the folder or file.
        wanted: what the task asks for: images alone.

    Raises:
        DataError: there are no images, or a file is damaged.
    """
    if wanted.target != "image":
        raise DataError(f"a folder or file of images alone has no annotations, but {wanted.target} is wanted")
    path = Path(argument)
    if path.suffix.lower() == ".npz":
        return PlainArrays(read_arrays(path, ("images",))["images"]), None
    inner, other = (first_there(path / name for name in names) for names in (TRAIN, VAL))
    if inner is None or not inner.is_dir():
        return _from_folder(path, wanted.broken), None
    val = None if other is None or not other.is_dir() else _from_folder(other, wanted.broken)
    return _from_folder(inner, wanted.broken), val


def _from_folder(root: Path, broken: Broken) -> PlainImages:
    where = f"folder {str(root)!r}"
    files = image_files(root) if root.is_dir() else []
    if not files:
        raise DataError(f"{where} " + ("has no images in it" if root.is_dir() else "is not there"))
    packed, sizes = Packed.texts(files), sizes_on_disk(root, files)
    faults = np.where((sizes < 0).any(1), Fault.MISSING, Fault.NONE).astype(np.int8)
    found, stays = found_in(faults, packed.text), np.flatnonzero(faults == Fault.NONE)
    if not len(stays):
        raise DataError(f"{where}: none of its {len(files):,} images can be used: {', '.join(map(str, found))}")
    notes = judged(where, len(files), found, "stop" if broken == "stop" else "drop")
    return PlainImages(root, packed.take(stays), sizes[stays], notes)
