"""Lossless reading of images and label maps: silent changes by Pillow are avoided, or are errors."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.optional import needs
from edakari.core.reading import Unreadable, require_regular
from edakari.errors import DataError

with needs("train", "reading images"):
    from PIL import Image

__all__ = [
    "Held",
    "eight_bits",
    "image_size",
    "orientation",
    "read_colours",
    "read_image",
    "read_label_map",
    "read_pixels",
    "read_tensor",
    "tensor_of",
]

PIXELS = 178_956_970
"""Largest number of pixels of an image, as in Pillow's limit: half a gigabyte in colour."""
FORMATS = ("PNG", "JPEG", "MPO", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF", "JPEG2000")
"""Accepted image formats, independent of file suffixes: for some others Pillow runs another program."""
LOSSLESS = ("PNG", "BMP", "DIB", "TIFF")
COLOURS = ("1", "L", "P", "RGB", "LA", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
ORIENTATION, PHOTOMETRIC, BITS = 274, 262, 258
"""Tags of EXIF and TIFF."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that rotates an image for each EXIF orientation."""


@dc.dataclass(frozen=True)
class Held:
    """An image file that is held in memory.

    Args:
        name: what errors call it.
        content: the bytes of the file.
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


def read_image(path: str | Path | Held) -> Image.Image:
    """Read an image, rotated by its EXIF tag, without its alpha channel.

    Args:
        path: path of a file in one of `FORMATS`, or such a file in memory.

    Returns:
        "RGB"; or "F" with values from 0 to 1 for grey of more than 8 bits, which other modes of Pillow would clip.

    Raises:
        DataError: the file cannot be read, or its values cannot be represented; the message names the file.
    """
    with _opened(path, FORMATS) as image:
        _refuse_unknown(image)
        inverted = image.mode in SIXTEEN and _tag(image, PHOTOMETRIC) == 0
        whole = 2 ** (_tag(image, BITS) or 16) - 1
        turned = _turned(image)
        if image.mode in COLOURS:
            # else Pillow warns that it leaves the transparency out
            turned.info.pop("transparency", None)
            return turned.convert("RGB")
        values = np.asarray(turned).astype(np.float32)
        if image.mode == "F":
            if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
                raise Unreadable(
                    f"its floating-point values range over {values.min():.4g} to {values.max():.4g}, and only those "
                    "from 0 to 1 have a meaning of their own; scale them, or save it with 8 or 16 bits"
                )
            return Image.fromarray(values)
        grey = values / np.float32(whole if image.mode in SIXTEEN else 65535)
        return Image.fromarray(1 - grey if inverted else grey)


def read_tensor(path: str | Path | Held) -> torch.Tensor:
    """Read an image as `read_image` does, as a tensor.

    Returns:
        uint8 [1 or 3, H, W]; or float32 [1, H, W] with values from 0 to 1 for grey of more than 8 bits.

    Raises:
        DataError: see `read_image`.
    """
    decode = _jpeg_decoder()
    with _opened(path, FORMATS) as image:
        known = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB") and _orientation(image) == 1
        if known and decode is not None:
            content = path.content if isinstance(path, Held) else Path(path).read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return decode(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return tensor_of(read_image(path))


def _jpeg_decoder() -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Torchvision's decoder, which takes three quarters of Pillow's time; later versions may lose it."""
    with needs("train", "reading images"):
        from torchvision import io  # here, for it takes seconds to import

    return getattr(io, "decode_jpeg", None)


def tensor_of(image: Image.Image) -> torch.Tensor:
    """Convert an image of mode "L", "RGB" or "F" to a tensor; see `read_tensor`."""
    values = torch.from_numpy(np.array(image))
    return values.permute(2, 0, 1) if values.ndim == 3 else values[None]


def eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image from `read_image` to "RGB"; grey of more bits is rounded to 8."""
    if image.mode != "F":
        return image
    return Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8)).convert("RGB")


def read_label_map(path: str | Path | Held) -> npt.NDArray[np.int32]:
    """Read the stored class index of each pixel; for palette images, the palette index.

    Args:
        path: path of a file in one of `LOSSLESS`.

    Returns:
        int32 [H, W].

    Raises:
        DataError: the file cannot be read, or has not one number per pixel; the message names the file.
    """
    with _opened(path, LOSSLESS) as image:
        if image.mode not in ("1", "L", "P", "I", *SIXTEEN):
            raise Unreadable(
                f"it is of mode {image.mode}, where one number for each pixel is needed (modes P, L, 1, I;16, I): "
                "colours do not say which class is which; save the numbers of the classes"
            )
        tiles = getattr(image, "tile", None)
        stored = tiles[0][3] if tiles else ""
        raw = str(stored[0] if isinstance(stored, tuple) else stored)
        if "I" in raw if image.mode in ("1", "L") else _tag(image, PHOTOMETRIC) == 0:
            raise Unreadable("it stores white as 0, so its numbers cannot be told; save it with black as 0")
        values = np.asarray(_turned(image)).astype(np.int32)
        # Pillow spreads grey of 2 and 4 bits over 0 to 255
        return values // {"L;2": 85, "L;4": 17}.get(raw[:3], 1)


def read_pixels(path: str | Path | Held) -> torch.Tensor:
    """Read an image as `read_image` does, in colour of 8 bits.

    Returns:
        uint8 [3, H, W].

    Raises:
        DataError: see `read_image`.
    """
    return torch.from_numpy(np.array(eight_bits(read_image(path)))).permute(2, 0, 1).contiguous()


def read_colours(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read the colour of each pixel of a label map whose colours stand for classes.

    Args:
        path: path of a file in one of `LOSSLESS`.

    Returns:
        uint8 [H, W, 3].

    Raises:
        DataError: the file cannot be read, or has other values than colours of 8 bits; the message names the file.
    """
    with _opened(path, LOSSLESS) as image:
        if image.mode not in COLOURS:
            raise Unreadable(f"it is of mode {image.mode}, where a colour for each pixel is needed")
        turned = _turned(image)
        turned.info.pop("transparency", None)
        return np.asarray(turned.convert("RGB"))


def image_size(path: str | Path) -> tuple[int, int]:
    """Return height and width of an image, rotated by its EXIF tag, without decoding it.

    Raises:
        DataError: the file cannot be read; the message names it.
    """
    with _opened(path, FORMATS) as image:
        return (image.width, image.height) if _orientation(image) > 4 else (image.height, image.width)


def orientation(path: str | Path) -> int:
    """Return the EXIF orientation of an image; 1 means no rotation.

    Raises:
        DataError: the file cannot be read; the message names it.
    """
    with _opened(path, FORMATS) as image:
        return _orientation(image)


@contextlib.contextmanager
def _opened(path: str | Path | Held, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """An image whose pixels are not read yet; whatever goes wrong with it is one error that names the file."""
    try:
        if not isinstance(path, Held):
            require_regular(path)
        file = io.BytesIO(path.content) if isinstance(path, Held) else path
        Image.init()  # Pillow knows formats by name only once it has loaded them all
        with warnings.catch_warnings():
            # of large images, which are judged here, and of damaged data beside the pixels
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(file, formats=[each for each in formats if each in Image.OPEN]) as image:
                if not 0 < image.width * image.height <= PIXELS:
                    raise Unreadable(f"it has {image.width}x{image.height} pixels; 1 to {PIXELS:,} are read")
                yield image
    except Unreadable as error:
        raise DataError(f"image {path} cannot be read: {error}") from error
    except Exception as error:
        # of the decoders, which meet damaged files with errors of every kind
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"image {path} cannot be read ({said}); mend or remove it") from error


def _refuse_unknown(image: Image.Image) -> None:
    # 16 bits of PNG (older Pillow) and PGM arrive as 32, scaled to 65535; those of others have no known largest value
    known = image.mode in ("F", *COLOURS, *SIXTEEN) or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not known:
        what = "32-bit integers, whose largest value is not known" if image.mode == "I" else f"mode {image.mode}"
        raise Unreadable(f"it holds {what}; save it with 8 or 16 bits, in grey or RGB")


def _turned(image: Image.Image) -> Image.Image:
    image.load()
    # after the pixels are read, for Pillow turns TIFF files itself
    way = _orientation(image)
    return image.transpose(TURNS[way]) if way in TURNS else image


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:
        # damaged EXIF data beside pixels that are fine, as some photos of ImageNet have it
        return 1
    return found if found in range(1, 9) else 1


def _tag(image: Image.Image, tag: int) -> int | None:
    """Read a number from the tags of a TIFF file."""
    found = getattr(image, "tag_v2", {}).get(tag)
    found = found[0] if isinstance(found, tuple) and found else found
    return found if isinstance(found, int) else None
