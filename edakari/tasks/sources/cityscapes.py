"""Cityscapes: 19 classes of training. `cityscapes:FOLDER`, which looks like

    leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png, gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png

Ids become training ids by torchvision's table; all other ids do not count.
"""

from __future__ import annotations

from pathlib import Path

from edakari.core.optional import needs
from edakari.errors import DataError
from edakari.tasks.sources.examples import Examples, Wanted
from edakari.tasks.sources.label_maps import MappedImages, Numbering, Pairs, mapped, require_map

__all__ = ["cityscapes"]


def cityscapes(argument: str, wanted: Wanted, /) -> tuple[Examples, Examples | None]:
    """Read Cityscapes' folder.

    Args:
        argument: the folder with `leftImg8bit` and `gtFine`.
        wanted: what the task asks for: a class at every pixel.

    Raises:
        DataError: nothing of this form is there, or it lacks what is wanted.
    """
    require_map("Cityscapes", wanted)
    root = Path(argument)
    looked = [f"{part}/train" for part in ("leftImg8bit", "gtFine")]
    missing = [part for part in looked if not (root / part).is_dir()]
    if missing:
        raise DataError(f"Cityscapes folder {str(root)!r}: there is no {' and no '.join(missing)} in it")
    first = _read(root, "train", wanted)
    val = all((root / part / "val").is_dir() for part in ("leftImg8bit", "gtFine"))
    return first, _read(root, "val", wanted.like(first)) if val else None


def _read(root: Path, split: str, wanted: Wanted) -> MappedImages:
    with needs("train", "reading Cityscapes"):
        from torchvision.datasets import Cityscapes

    data = Cityscapes(str(root), split=split, mode="fine", target_type="semantic")
    files = sorted((Path(image), Path(maps[0])) for image, maps in zip(data.images, data.targets, strict=True))
    files = [(image, labels) for image, labels in files if image.name.endswith("_leftImg8bit.png")]
    counted = sorted((each for each in Cityscapes.classes if not each.ignore_in_eval), key=lambda each: each.train_id)
    labels = {each.id: -1 if each.ignore_in_eval else each.train_id for each in Cityscapes.classes if each.id >= 0}
    images, maps = ([path.relative_to(root).as_posix() for path in each] for each in zip(*files, strict=True))
    names = tuple(each.name for each in counted)
    where = f"Cityscapes folder {str(root)!r}, split {split}"
    return mapped(Pairs(where, root, images, maps, names, Numbering.of(labels)), wanted)
