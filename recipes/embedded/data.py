"""Cuts the embedded subset of Fashion-MNIST from the official files (Debian package `dataset-fashion-mnist`).

Usage: python recipes/embedded/data.py [/usr/share/datasets/fashion-mnist]
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parents[2] / "edakari" / "tasks" / "embedded"


def read(folder: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images uint8 [N, 28, 28, 1] and labels uint8 [N] of "train" or "t10k", from the official idx files."""
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28, 1),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def write(path: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    """Write an .npz with LZMA, a seventh smaller than deflate, the same bytes each time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(2026, 1, 1, 0, 0, 0))
            archive.writestr(info, content.getvalue(), zipfile.ZIP_LZMA)


def main() -> None:
    """The first 1,000 training and 200 test images of each class, in their official order."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE
    for part, name, per_class in (("train", "train", 1000), ("t10k", "test", 200)):
        images, labels = read(folder, part)
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)]))
        arrays = {"images": images[chosen], "labels": labels[chosen], "class_names": np.array(CLASSES)}
        write(TARGET / f"fashion_{name}.npz", arrays)


if __name__ == "__main__":
    main()
