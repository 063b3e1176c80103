"""What networks of a task answer for an image, and which answers a method or criterion can work with."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Literal

__all__ = ["OUTPUT_KINDS", "OutputKind", "Suits"]

OutputKind = Literal["class", "classes", "map", "objects", "heatmaps", "vector", "numbers", "depth", "image"]
OUTPUT_KINDS: Mapping[OutputKind, str] = {
    "class": "one class an image",
    "classes": "several classes an image",
    "map": "a class at every pixel",
    "objects": "objects, of any number",
    "heatmaps": "heatmaps of keypoints",
    "vector": "embeddings without classes",
    "numbers": "numbers instead of classes",
    "depth": "depths instead of classes",
    "image": "images instead of classes",
}
"""What a network answers, in words. Settings of a task name it as `output_kind`, a class attribute."""


@dc.dataclass(frozen=True)
class Suits:
    """Tasks that suit a method or criterion, which names them as `suits`, a class attribute.

    Args:
        kinds: answers of networks that it can work with.
        reason: what it needs them for, as the predicate of a sentence.
    """

    kinds: tuple[OutputKind, ...]
    reason: str
