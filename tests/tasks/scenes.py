"""Scenes with a class at every pixel, written as Cityscapes, ADE20K and CamVid are distributed."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[Any]


@dc.dataclass(frozen=True)
class Scene:
    """An image and the labels of its pixels, 255 where they do not count."""

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def scenes(seed: int, classes: int, count: int = 3, size: tuple[int, int] | None = None) -> list[Scene]:
    """Scenes at random, each of a size of its own if none is given."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        height, width = size or random.integers(6, 12, 2)
        labels = random.integers(0, classes + 1, (height, width))
        labels[0, 0] = classes - 1
        found.append(
            Scene(random.integers(0, 256, (height, width, 3), dtype=np.uint8), np.where(labels == classes, 255, labels))
        )
    return found


def save(path: Path, pixels: Pixels, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **how)


def cityscapes(root: Path, train: list[Scene], val: list[Scene]) -> str:
    ids = np.full(256, 4, np.uint8)
    ids[:19] = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    for split, written in (("train", train), ("val", val)):
        for number, scene in enumerate(written):
            save(root / "leftImg8bit" / split / "ulm" / f"ulm_{number}_leftImg8bit.png", scene.image)
            save(root / "gtFine" / split / "ulm" / f"ulm_{number}_gtFine_labelIds.png", ids[scene.labels])
    return f"cityscapes:{root}"


def ade20k(root: Path, train: list[Scene], val: list[Scene]) -> str:
    home = root / "ADEChallengeData2016"
    for split, written in (("training", train), ("validation", val)):
        for number, scene in enumerate(written):
            save(home / "images" / split / f"ADE_{number}.png", scene.image)
            save(home / "annotations" / split / f"ADE_{number}.png", np.where(scene.labels == 255, 0, scene.labels + 1))
    rows = [f"{number}\t0.1\t10\t1\t0\tthing {number}, other {number}" for number in range(1, 151)]
    (home / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows]))
    return f"ade20k:{root}"


def pairs(root: Path, split: str, written: list[Scene], draw: Callable[[Pixels], Pixels]) -> None:
    """CamVid's list of a split: lines with paths from elsewhere, in the folder, and in the one around."""
    lines = []
    for number, scene in enumerate(written):
        name = f"{number}.png"
        save(root / split / name, scene.image)
        save(root / f"{split}annot" / name, draw(scene.labels))
        start = ("/else/CamVid/", "", f"{root.name}/")[number % 3]
        lines.append(f"{start}{split}/{name} {start}{split}annot/{name}")
    (root / f"{split}.txt").write_text("\n".join(lines) + "\n\n")
