"""Labelled images of Hugging Face data sets and WebDataset shards, for classification.

hf:cifar10?image=img                 a column of images and a column `label` (or `labels`, `fine_label`) of classes
webdataset:shards/                   train*.tar and val*.tar with an image and a `.cls` file (a number or a name)
"""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from edakari.core.optional import needs
from edakari.errors import DataError
from edakari.tasks.sources.arrays import Labels
from edakari.tasks.sources.class_lists import read_class_list
from edakari.tasks.sources.huggingface import columns_of, file_in, named_split, splits_of
from edakari.tasks.sources.listing import IMAGES, TRAIN, VAL, first_there
from edakari.tasks.sources.mapped import Mapped, labelled
from edakari.tasks.sources.webdataset import bytes_at, samples_of, shards_in

__all__ = ["hf_labels", "webdataset_labels"]

OPTIONS = ("config", "train", "val", "image", "label")
COLUMNS = ("label", "labels", "fine_label", "cls", "class")
CLS_BYTES = 10_000
"""Largest `.cls` file; it holds a number or a name."""


@dc.dataclass(frozen=True, eq=False)
class HubLabelled:
    """A data set of Hugging Face as images and labels.

    Args:
        dataset: the data set, whose images are files.
        image: name of the column of images.
        targets: label of each image, int64 [N].
        where: the data set, as the subject of a sentence.
        classes: name of each class; None if the data set has none.
    """

    dataset: Any
    image: str
    targets: Labels
    where: str
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with needs("train", "reading images"):
            from edakari.tasks.images import read_image

        row = self.dataset[index]
        return read_image(file_in(row[self.image], f"{self.where}, item {index}")), int(self.targets[index])


def hf_labels(argument: str) -> tuple[Mapped, Mapped | None]:
    """Read a Hugging Face data set with one class for each image.

    Args:
        argument: its name or folder, with options behind a question mark: `config`, `train`, `val`, `image`, `label`.

    Raises:
        DataError: there is no such data set, it is damaged, or it has no columns of images and classes.
    """
    name, _, query = argument.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise DataError(f"hf:{argument}: there is no option {unknown[0]!r}, only {', '.join(OPTIONS)}")
    splits = splits_of(name, options.get("config", ""))
    train = named_split(name, splits, options.get("train", ""), TRAIN)
    first = _hub(f"Hugging Face data set {name!r}, split {train}", splits[train], options)
    found = labelled(first, first.where, first.classes)
    if not (options.get("val") or any(each in splits for each in VAL)):
        return found, None
    val = named_split(name, splits, options.get("val", ""), VAL)
    second = _hub(f"Hugging Face data set {name!r}, split {val}", splits[val], options)
    return found, labelled(second, second.where, found.classes)


def _hub(where: str, dataset: Any, options: dict[str, str]) -> HubLabelled:
    with needs("huggingface", "reading Hugging Face data sets"):
        import datasets
    features = dataset.features
    image = options.get("image") or next((n for n, each in features.items() if isinstance(each, datasets.Image)), "")
    label = options.get("label") or next((n for n in COLUMNS if n in features), "")
    if not isinstance(features.get(image), datasets.Image) or label not in features:
        raise DataError(
            f"{where}: it has no columns of images and classes, only {columns_of(features)}; name them: "
            "?image=NAME&label=NAME"
        )
    stored = np.asarray(dataset.with_format("numpy")[label][:])
    names = getattr(features[label], "names", None)
    if stored.dtype.kind in "US":
        names, stored = np.unique(stored, return_inverse=True)
    if stored.ndim != 1 or stored.dtype.kind not in "iu":
        raise DataError(f"{where}: column {label!r} holds no number or name of a class, found {features[label]}")
    dataset = dataset.cast_column(image, datasets.Image(decode=False))
    classes = None if names is None else tuple(map(str, names))
    return HubLabelled(dataset, image, stored.astype(np.int64), where, classes)


@dc.dataclass(frozen=True, eq=False)
class ShardLabelled:
    """Images and labels in uncompressed tar files.

    Args:
        shards: the tar files.
        places: shard, and start and size of each image, int64 [N, 3].
        targets: label of each image, int64 [N].
        classes: name of each class; None if nothing names them.
    """

    shards: tuple[Path, ...]
    places: npt.NDArray[np.int64]
    targets: Labels
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with needs("train", "reading images"):
            from edakari.tasks.images import Held, read_image

        shard, start, size = (int(each) for each in self.places[index])
        where = f"{self.shards[shard]}, image {index}"
        return read_image(Held(where, bytes_at(self.shards[shard], start, size, where))), int(self.targets[index])


def webdataset_labels(argument: str) -> tuple[Mapped, Mapped | None]:
    """Read WebDataset shards with one class for each image.

    Args:
        argument: a folder, or a pattern of the shards of one split; see `edakari.tasks.sources.webdataset`.

    Raises:
        DataError: there are no shards, one is damaged or compressed, or samples have no image and `.cls` file.
    """
    train, val = shards_in(argument)
    where = f"WebDataset shards {argument!r}"
    listed = first_there(train[0].parent / name for name in ("classes.txt", "labelmap.txt"))
    names = None if listed is None else read_class_list(listed, where).names
    first = _shards(where, train, names)
    found = labelled(first, where, first.classes)
    if not val:
        return found, None
    second = _shards(f"{where} (validation)", val, found.classes)
    return found, labelled(second, f"{where} (validation)", found.classes)


def _shards(where: str, shards: list[Path], names: tuple[str, ...] | None) -> ShardLabelled:
    places, words = [], []
    for number, shard in enumerate(shards):
        for key, members in samples_of(where, shard):
            image = next((members[each] for each in members if f".{each}" in IMAGES), None)
            if image is None or "cls" not in members:
                raise DataError(f"{where}: sample {key} of {shard.name} has no image, or no .cls file with its class")
            places.append((number, *image))
            start, size = members["cls"]
            words.append(bytes_at(shard, start, min(size, CLS_BYTES), f"{shard}: {key}.cls").decode("utf-8", "replace"))
    if not places:
        raise DataError(f"{where}: they hold no samples")
    words = [each.strip() for each in words]
    if all(each.isdecimal() for each in words):
        labels = np.array([int(each) for each in words], np.int64)
    else:
        names = names or tuple(sorted(set(words)))
        strange = sorted(set(words) - set(names))
        if strange:
            raise DataError(f"{where}: the class {strange[0]!r} is unknown; known are {list(names)[:8]}")
        labels = np.array([names.index(each) for each in words], np.int64)
    return ShardLabelled(tuple(shards), np.array(places, np.int64), labels, names)
