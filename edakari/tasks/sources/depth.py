"""Images with the depth of every pixel: `depth:FOLDER`, or `depth:FILE.npz`.

A folder has `images/` and `depth/` in it, or `train/` and `val/` with these. Files of the same stem belong together:
grey images of 16 bits, whose numbers times `scale` are depths, or .npy arrays [H, W]. An .npz file has `images`, uint8
[N, H, W, C] or [N, H, W], and `depth`, numbers [N, H, W]. Pixels whose depth is not finite or not above 0 do not count.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.optional import needs
from edakari.core.reading import require_regular
from edakari.errors import DataError
from edakari.tasks.sources.examples import Examples, Wanted, at_index
from edakari.tasks.sources.label_maps import usable
from edakari.tasks.sources.listing import sizes_on_disk
from edakari.tasks.sources.map_arrays import image_at
from edakari.tasks.sources.map_folders import Beside, PairedFolder, paired_folder
from edakari.tasks.sources.npz import read_arrays
from edakari.tasks.sources.packed import Packed

if TYPE_CHECKING:
    from torchvision.tv_tensors import Image

__all__ = ["DepthArrays", "DepthImages", "depth", "metric_depth", "require_depth"]

DEPTH = Beside(
    "depth", (".png", ".tif", ".tiff", ".npy"), "depth map", "depth maps, PNG files of 16 bits or .npy arrays,"
)


@dc.dataclass(frozen=True, eq=False)
class DepthImages:
    """Images on the disk with their depth maps; see `edakari.tasks.sources.examples.Examples`.

    Args:
        root: folder that the paths are relative to.
        images: paths of the images.
        maps: paths of the depth maps.
        sizes: height and width of each image, int32 [N, 2].
        scale: depth of the number 1.
        notes: what a reader of the results should know about the data.
    """

    root: Path
    images: Packed
    maps: Packed
    sizes: npt.NDArray[np.int32]
    scale: float
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        with needs("train", "reading annotated images"):
            from torchvision import tv_tensors

            from edakari.tasks.images import read_pixels

        index = at_index(index, len(self))
        image = tv_tensors.Image(read_pixels(self.root / self.images.text(index)))
        path = self.root / self.maps.text(index)
        found = metric_depth(_stored(path), self.scale)
        if found.shape != image.shape[1:]:
            raise DataError(
                f"depth map {path} is {list(found.shape)} once turned, and its image {list(image.shape[1:])}"
            )
        return image, {"image_id": index, "depth": tv_tensors.Mask(torch.from_numpy(found))}


@dc.dataclass(frozen=True, eq=False)
class DepthArrays:
    """Images and depth maps in memory; see `edakari.tasks.sources.examples.Examples`.

    Args:
        images: images, uint8 [N, H, W, 1 or 3].
        maps: depths, numbers [N, H, W].
        scale: depth of the number 1.
    """

    images: npt.NDArray[np.uint8]
    maps: npt.NDArray[Any]
    scale: float
    classes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of the stored images, 1 or 3."""
        return int(self.images.shape[3])

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Height and width of each image, int32 [N, 2]."""
        return np.tile(np.array(self.maps.shape[1:], np.int32), (len(self), 1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, dict[str, Any]]:
        with needs("train", "reading annotated images"):
            from torchvision import tv_tensors

        index = at_index(index, len(self))
        found = torch.from_numpy(metric_depth(self.maps[index], self.scale))
        return image_at(self.images, index), {"image_id": index, "depth": tv_tensors.Mask(found)}


def depth(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read a folder or an .npz file of images with depths.

    Args:
        argument: the folder or file.
        wanted: what the task asks for: the depth of every pixel.

    Raises:
        DataError: nothing of this form is there, a file is damaged, or it lacks what is wanted.
    """
    require_depth("a folder or file of images and depth maps", wanted)
    if argument.lower().endswith(".npz"):
        return _from_npz(Path(argument), wanted), None
    train, val = paired_folder(Path(argument), DEPTH)
    return _from_folder(train, wanted), None if val is None else _from_folder(val, wanted)


def require_depth(what: str, wanted: Wanted) -> None:
    """Raise an error where something else than the depth of every pixel is wanted.

    Raises:
        DataError: the target is another.
    """
    if wanted.target != "depth":
        raise DataError(f"{what} has depths, but {wanted.target} is wanted")


def metric_depth(stored: npt.NDArray[Any], scale: float) -> npt.NDArray[np.float32]:
    """Return depths of stored numbers, float32 [H, W]; 0 where there is none."""
    found = stored.astype(np.float32) * np.float32(scale)
    return np.where(np.isfinite(found) & (found > 0), found, np.float32(0))


def _from_folder(found: PairedFolder, wanted: Wanted) -> DepthImages:
    images, maps = Packed.texts(found.images), Packed.texts(found.maps)
    where = f"folder {str(found.root)!r}"
    sizes = _sizes(found.root, found.maps)
    stays, sizes, notes = usable(where, found.root, images, maps, sizes, wanted.broken)
    made = DepthImages(found.root, images.take(stays), maps.take(stays), sizes, wanted.scale, notes)
    made[0]  # of another form, it is an error now and not in a worker
    return made


def _from_npz(path: Path, wanted: Wanted) -> DepthArrays:
    found = read_arrays(path, ("images", "depth"))
    images, maps = found["images"], found["depth"]
    numbers = np.issubdtype(maps.dtype, np.floating) or np.issubdtype(maps.dtype, np.integer)
    if not numbers or maps.shape != images.shape[:3]:
        raise DataError(
            f"{path}: `depth` must be numbers {list(images.shape[:3])}, one for each pixel, found {maps.dtype} "
            f"{list(maps.shape)}"
        )
    if not any(metric_depth(each, wanted.scale).any() for each in maps):
        raise DataError(f"{path}: no pixel has a depth above 0; depths that are not known are 0 or nan")
    return DepthArrays(images, maps, wanted.scale)


def _sizes(root: Path, maps: Sequence[str]) -> npt.NDArray[np.int32]:
    """Height and width of each depth map, int32 [N, 2]; -1 where it cannot be read."""
    pictures = [index for index, file in enumerate(maps) if not file.lower().endswith(".npy")]
    sizes = np.full((len(maps), 2), -1, np.int32)
    if pictures:
        sizes[pictures] = sizes_on_disk(root, [maps[index] for index in pictures])
    for index in sorted(set(range(len(maps))) - set(pictures)):
        try:
            sizes[index] = np.load(root / maps[index], mmap_mode="r", allow_pickle=False).shape
        except (OSError, ValueError, EOFError, SyntaxError):
            continue
    return sizes


def _stored(path: Path) -> npt.NDArray[Any]:
    """Numbers of a depth map as they are stored, [H, W]."""
    if path.suffix.lower() != ".npy":
        from edakari.tasks.images import read_label_map

        return read_label_map(path)
    try:
        require_regular(path)
        found: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except Exception as error:
        # numpy meets damaged files with errors of every kind
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"depth map {path} cannot be read ({said})") from error
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise DataError(f"depth map {path} must hold numbers [height, width], found {found.dtype} {list(found.shape)}")
    return found
