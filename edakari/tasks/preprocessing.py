"""How an image becomes the network's input in evaluation, in plain values for those who use the network elsewhere."""

from __future__ import annotations

import dataclasses as dc
from typing import Any, Literal

__all__ = ["Preprocessing", "ResizeRule"]

ResizeRule = Literal["stretch", "shorter_side", "cover", "letterbox"]


@dc.dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform of a task, for images of 8 bits that are rotated by their EXIF tag.

    Args:
        resize: "stretch": to `to`, whatever the aspect; "shorter_side": the shorter side to the smaller number of
            `to`, and the longer one, rounded down, so that the aspect stays; "cover": the smallest size of the image's
            aspect that covers `to`, rounded; "letterbox": the largest one that fits into `to`, rounded.
        to: height and width at which the resizing aims.
        crop: height and width that are cut out of the middle, or into whose middle a smaller image is put; it is the
            size of the network's input.
        fill: value of pixels around the image, 0 to 255.
        interpolation: "bilinear" or "bicubic", always with antialiasing, as Pillow has them.
        grey: how colours become one channel: "luma", as in Pillow's mode "L", or "mean".
    """

    resize: ResizeRule
    to: tuple[int, int]
    crop: tuple[int, int]
    fill: int = 0
    interpolation: str = "bilinear"
    grey: Literal["luma", "mean"] = "luma"

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain values, with those that are always the same."""
        sizes = {"to": list(self.to), "crop": list(self.crop)}
        return {**dc.asdict(self), **sizes, "antialias": True, "colours": "RGB", "scale": 1 / 255}
