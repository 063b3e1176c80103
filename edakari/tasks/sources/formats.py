"""Formats of annotated images by name, and what stands in `data.source`, `data.train` and `data.val`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edakari.core.registry import Registry
from edakari.core.user_code import names_file
from edakari.errors import DataError
from edakari.tasks.sources.examples import Examples, ExamplesReader, Joined, Wanted
from edakari.tasks.sources.own_data import from_file

__all__ = ["EXAMPLES", "read_examples"]

EXAMPLES: Registry[ExamplesReader] = Registry(
    "format of annotated images",
    "edakari.examples",
    {
        "coco": "edakari.tasks.sources.coco:coco",
        "voc": "edakari.tasks.sources.voc:voc",
        "yolo": "edakari.tasks.sources.yolo:yolo",
        "cityscapes": "edakari.tasks.sources.cityscapes:cityscapes",
        "ade20k": "edakari.tasks.sources.ade20k:ade20k",
        "camvid": "edakari.tasks.sources.camvid:camvid",
        "folder": "edakari.tasks.sources.map_folders:folder",
        "instances": "edakari.tasks.sources.instances:instances",
        "npz": "edakari.tasks.sources.map_arrays:npz",
        "depth": "edakari.tasks.sources.depth:depth",
        "images": "edakari.tasks.sources.plain_images:images",
        "hf": "edakari.tasks.sources.huggingface:hf",
        "webdataset": "edakari.tasks.sources.webdataset:webdataset",
    },
    files=False,
)
"""Readers of annotated images, by the name in front of the colon of `data.source`."""
SUFFIXES = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".npz": "npz"}
"""Formats that the name of a file tells."""
UNNAMED: Mapping[str, str] = {"map": "folder", "depth": "depth", "image": "images"}
"""Formats of folders whose format is not named, by what is wanted; of other files too, except for maps."""
PLACES = ("voc", "cityscapes", "ade20k", "camvid", "folder", "instances", "depth")
"""Formats whose argument is one folder, or an .npz file."""
ANNOTATED = ("coco", "voc", "yolo", "cityscapes", "ade20k", "camvid", "folder", "instances", "npz", "hf", "webdataset")
"""Formats that have neither depths nor images alone."""


def read_examples(
    source: str, wanted: Wanted, train: Sequence[str] = (), val: str | None = None
) -> tuple[Examples, Examples | None]:
    """Read the training examples, and the validation examples if there are any, that a recipe names.

    Args:
        source: "FORMAT:ARGUMENT", such as "coco:PATH"; a file whose suffix tells its format; "path/to/file.py:NAME" for
            a data set of your own; or a folder of images and label maps, if a class at every pixel is wanted. Where
            depths or images alone are wanted, folders and .npz files need no format.
        wanted: what the task asks for.
        train: sources of training examples, which are concatenated; takes the place of `source`.
        val: source of validation examples; takes the place of those that belong to `source`.

    Raises:
        DataError: a source is missing, damaged, of another form, or lacks what is wanted.
        UnknownName: there is no such format.
    """
    if train:
        first, beside = _joined(train, wanted), None
    else:
        first, beside = _read(source, wanted)
    if val is not None:
        one, other = _read(val, wanted.like(first))
        beside = other or one
    return first, beside


def _joined(texts: Sequence[str], wanted: Wanted) -> Examples:
    first, _ = _read(texts[0], wanted)
    if len(texts) > 1 and wanted.target == "map" and _numbered(first):
        # the first need not have the largest number of all
        alone = [first, *(_read(text, wanted)[0] for text in texts[1:])]
        most = max(alone, key=lambda examples: len(examples.classes))
        if _numbered(most):
            wanted = wanted.like(most)
            first, _ = _read(texts[0], wanted)
    rest = [_read(text, wanted.like(first))[0] for text in texts[1:]]
    return Joined((first, *rest)) if rest else first


def _numbered(examples: Examples) -> bool:
    """Whether classes have no names, but numbers as far as the largest in the data."""
    return tuple(examples.classes) == tuple(str(number) for number in range(len(examples.classes)))


def _read(text: str, wanted: Wanted) -> tuple[Examples, Examples | None]:
    if names_file(text):
        return from_file(text, wanted)
    name, argument = _parted(text, wanted)
    if wanted.target in ("depth", "image") and name in ANNOTATED:
        own = "images with depths" if wanted.target == "depth" else "images alone"
        raise DataError(
            f"{text!r}: the format {name!r} is not for {own}; give a folder, an .npz file or a data set of your own"
        )
    if name in PLACES and not Path(argument).exists():
        raise DataError(f"{text!r}: there is no file or folder {argument!r} in {Path.cwd()}; give the path of yours")
    return EXAMPLES.named(name)(argument, wanted)


def _parted(text: str, wanted: Wanted) -> tuple[str, str]:
    """The format that a text names or implies, and the rest."""
    name, colon, rest = text.partition(":")
    if colon and name in EXAMPLES:
        return name, rest
    path, unnamed = Path(text), UNNAMED.get(wanted.target)
    if path.suffix.lower() in SUFFIXES:
        known = SUFFIXES[path.suffix.lower()]
        return (unnamed if known == "npz" and unnamed in ("depth", "images") else known), text
    if colon and not path.exists():
        raise EXAMPLES.unknown(name)
    if unnamed is not None:
        return unnamed, text
    raise DataError(
        f"{text!r} does not say of which format its annotations are; write FORMAT:{text} with one of "
        f"{', '.join(EXAMPLES.names())}"
    )
