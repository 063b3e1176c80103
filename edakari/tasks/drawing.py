"""Pictures of an image with what it shows, or with what a network finds in it; the tasks' method `drawn` uses them.

Small images are enlarged, so that lines and texts are legible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from edakari.core.optional import needs

__all__ = ["boxed", "captioned", "coloured", "grey", "pointed"]

LEAST = 224
"""Least side of a picture, in pixels."""
SCORE = 0.3
"""Least score of an object that is drawn."""
MOST = 100
"""Largest number of objects in a picture."""
COLOURS = ("#2563eb", "#d97706", "#059669", "#be123c", "#7c3aed", "#0891b2", "#ca8a04", "#db2777", "#65a30d", "#475569")
"""Colours of classes, in order of the labels and then again from the first."""
LINE = 16
"""Height of a line of text, in pixels."""


def captioned(image: torch.Tensor, lines: Sequence[str]) -> torch.Tensor:
    """Write lines of text below an image.

    Args:
        image: uint8 [3, H, W].
        lines: lines of text.

    Returns:
        uint8 [3, height, width].
    """
    with needs("train", "drawing predictions"):
        from PIL import Image, ImageDraw

    large, _ = _enlarged(image)
    strip = Image.new("RGB", (large.shape[2], LINE * len(lines)), "white")
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((2, LINE * number + 2), line, fill="#0f172a")
    return torch.cat([large, torch.from_numpy(np.array(strip)).permute(2, 0, 1)], 1)


def boxed(image: torch.Tensor, found: Mapping[str, Any], classes: Sequence[str]) -> torch.Tensor:
    """Draw objects: boxes with class and score, masks and keypoints where they are given.

    Args:
        image: uint8 [3, H, W].
        found: `boxes` [n, 4] and `labels` [n]; perhaps `scores` [n], `masks` [n, H, W] or [n, 1, H, W], `keypoints`
            [n, K, 2 or more] and `visible` [n, K].
        classes: names of the classes.
    """
    plain = {name: torch.as_tensor(value).as_subclass(torch.Tensor).detach().cpu() for name, value in found.items()}
    large, factor = _enlarged(image)
    some = torch.ones(len(plain["boxes"]), dtype=torch.bool)
    if "scores" in plain:
        some = plain["scores"] >= SCORE
    chosen = torch.nonzero(some).flatten()[:MOST]
    labels = plain["labels"][chosen].tolist()
    colours = [COLOURS[label % len(COLOURS)] for label in labels]
    if not labels:
        return large
    drawing = _drawing()
    if "masks" in plain:
        masks = plain["masks"].flatten(0, -3)[chosen] > 0.5
        large = drawing.draw_segmentation_masks(large, _repeated(masks, factor), alpha=0.5, colors=colours)
    names = [classes[label] if label < len(classes) else str(label) for label in labels]
    if "scores" in plain:
        scores = plain["scores"][chosen].tolist()
        names = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    boxes = plain["boxes"][chosen].float() * factor
    large = drawing.draw_bounding_boxes(large, boxes, names, colours, width=2)
    if "keypoints" in plain:
        seen = plain["visible"][chosen] > 0 if "visible" in plain else None
        large = _dotted(large, plain["keypoints"][chosen, :, :2] * factor, seen)
    return large


def pointed(image: torch.Tensor, points: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
    """Draw keypoints of objects.

    Args:
        image: uint8 [3, H, W].
        points: x and y in pixels, [n, K, 2].
        visible: which keypoints are drawn, bool [n, K]; None draws all.
    """
    large, factor = _enlarged(image)
    plain = torch.as_tensor(points).as_subclass(torch.Tensor).detach().cpu()
    return _dotted(large, plain * factor, visible)


def coloured(image: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """Colour the pixels of each class.

    Args:
        image: uint8 [3, H, W].
        labels: class of each pixel, int [H, W]; pixels of other values are not coloured.
        count: number of classes.
    """
    large, factor = _enlarged(image)
    plain: Any = labels.cpu()
    there = [label for label in plain.unique().tolist() if 0 <= label < count]
    if not there:
        return large
    masks = torch.stack([plain == label for label in there])
    colours = [COLOURS[label % len(COLOURS)] for label in there]
    drawn: torch.Tensor = _drawing().draw_segmentation_masks(large, _repeated(masks, factor), alpha=0.6, colors=colours)
    return drawn


def grey(values: torch.Tensor) -> torch.Tensor:
    """Return a map of numbers, [H, W], as a grey picture from its smallest to its largest number."""
    plain = values.detach().float().cpu()
    low, high = plain.amin(), plain.amax()
    pixels = ((plain - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    return _enlarged(pixels.expand(3, -1, -1))[0]


def _dotted(image: torch.Tensor, points: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
    radius = max(2, min(image.shape[1:]) // 100)
    for number, each in enumerate(points):
        seen = None if visible is None else visible[number : number + 1].bool().cpu()
        colour = COLOURS[number % len(COLOURS)]
        image = _drawing().draw_keypoints(image, each[None], colors=colour, radius=radius, visibility=seen)
    return image


def _enlarged(image: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The image, each pixel repeated until the least side is reached, and how often."""
    factor = max(1, -(-LEAST // max(1, min(image.shape[-2:]))))
    return _repeated(image, factor), factor


def _repeated(image: torch.Tensor, factor: int) -> torch.Tensor:
    return image.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def _drawing() -> Any:
    with needs("train", "drawing predictions"):
        from torchvision import utils

    return utils
