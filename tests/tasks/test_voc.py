"""Pascal VOC XML: what was written is read, as torchvision's wrapper reads it; bombs and broken boxes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edakari.errors import DataError
from edakari.tasks.sources.examples import Wanted, notes_of, sizes_of
from edakari.tasks.sources.voc import voc
from tests.tasks.random_objects import Picture, assert_read, pictures

NAMES = ("aeroplane", "bicycle", "bird")


def xml_of(picture: Picture, size: tuple[int, int] | None = None, names: tuple[str, ...] = NAMES) -> str:
    height, width = size or picture.size
    objects = "".join(
        f"<object><name>{names[thing.label]}</name><difficult>{int(thing.crowd)}</difficult><bndbox>"
        + "".join(f"<{key}>{side}</{key}>" for key, side in zip(("ymin", "xmin", "xmax", "ymax"), order, strict=True))
        + "</bndbox><part><name>head</name><bndbox><xmin>0</xmin></bndbox></part></object>"
        for thing in picture.things
        for order in [(thing.box[1], thing.box[0], thing.box[2], thing.box[3])]
    )
    return (
        f"<annotation><filename>{picture.name}</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )


def write(home: Path, split: str, written: list[Picture], **how: Any) -> None:
    """VOC's own layout."""
    for part in ("Annotations", "ImageSets/Main"):
        (home / part).mkdir(parents=True, exist_ok=True)
    for picture in written:
        picture.save(home / "JPEGImages")
        (home / "Annotations" / picture.name.replace(".png", ".xml")).write_text(xml_of(picture, **how))
    lines = "".join(f"{picture.name.removesuffix('.png')}\n" for picture in written)
    (home / "ImageSets" / "Main" / f"{split}.txt").write_text(lines)


def unspaced(seed: int, prefix: str = "", **how: Any) -> list[Picture]:
    """Pictures whose names are those of VOC: without a space."""
    return [
        Picture(each.name.replace(" ", "_"), each.pixels, each.things) for each in pictures(seed, prefix=prefix, **how)
    ]


@pytest.mark.parametrize("inner", ["", "VOCdevkit", "VOC2012"])
def test_what_was_written_is_read(tmp_path: Path, inner: str) -> None:
    train, val = unspaced(1, count=6), unspaced(2, "val")
    write(tmp_path / inner, "train", train)
    write(tmp_path / inner, "val", val)
    first, second = voc(str(tmp_path), Wanted())
    assert second is not None
    assert first.classes == second.classes == NAMES
    assert_read(first, train)
    assert_read(second, val)
    assert sizes_of(first).tolist() == [list(each.size) for each in train]
    assert [first[index][1]["iscrowd"].tolist() for index in range(len(train))] == [
        [thing.crowd for thing in picture.things] for picture in train
    ]


def test_boxes_are_those_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import VOCDetection, wrap_dataset_for_transforms_v2

    home = tmp_path / "VOCdevkit" / "VOC2012"
    written = [each for each in unspaced(3, count=5) if each.things]
    write(home, "train", written)
    for picture in written:  # torchvision looks for JPEG files
        (home / "JPEGImages" / picture.name).rename(home / "JPEGImages" / picture.name.replace(".png", ".jpg"))
    theirs = wrap_dataset_for_transforms_v2(VOCDetection(tmp_path, image_set="train"))
    ours, _ = voc(str(tmp_path / "VOCdevkit"), Wanted())
    for index in range(len(ours)):
        mine, target = ours[index][1], theirs[index][1]
        assert torch.equal(mine["boxes"], target["boxes"].float())
        assert (mine["labels"] + 1).tolist() == target["labels"].tolist(), "theirs count from the background on"


def test_exports_of_labelling_tools_are_read(tmp_path: Path) -> None:
    parts = {"train": unspaced(1), "valid": unspaced(2, "val")}
    for split, written in parts.items():
        for picture in written:
            picture.save(tmp_path / split)
            (tmp_path / split / picture.name.replace(".png", ".xml")).write_text(xml_of(picture))
    (tmp_path / "classes.txt").write_text("bird\naeroplane\nbicycle\n")
    first, second = voc(str(tmp_path), Wanted())
    assert second is not None
    assert first.classes == ("bird", "aeroplane", "bicycle")
    for examples, written in ((first, parts["train"]), (second, parts["valid"])):
        for index, picture in enumerate(written):
            names = [first.classes[label] for label in examples[index][1]["labels"]]
            assert names == [NAMES[thing.label] for thing in picture.things]


def test_without_lists_all_images_are_of_the_training_data(tmp_path: Path) -> None:
    written = unspaced(1)
    write(tmp_path, "train", written)
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    first, second = voc(str(tmp_path), Wanted())
    assert second is None
    assert_read(first, written)


def test_a_size_that_is_not_stated_is_that_of_the_image(tmp_path: Path) -> None:
    written = unspaced(1)
    write(tmp_path, "train", written, size=(0, 0))
    first, _ = voc(str(tmp_path), Wanted(broken="stop"))
    assert sizes_of(first).tolist() == [list(each.size) for each in written]
    assert_read(first, written)


def test_broken_boxes_and_unknown_classes_are_named(tmp_path: Path) -> None:
    written = unspaced(4)
    write(tmp_path, "train", written, names=("aeroplane", "bicycle", "dragon"))
    path = tmp_path / "Annotations" / written[1].name.replace(".png", ".xml")
    dragons = sum(thing.label == 2 for picture in written for thing in picture.things)
    total = sum(len(picture.things) for picture in written) + 2
    assert dragons > 0
    more = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>"
    text = path.read_text().replace(
        "</annotation>",
        f"<object><name>bicycle</name>{more}</object><object><name>bicycle</name></object></annotation>",
    )
    path.write_text(text)
    wanted = Wanted(classes=("aeroplane", "bicycle"), broken="stop")
    with pytest.raises(DataError) as error:
        voc(str(tmp_path), wanted)
    for part in (
        f"{2 + dragons} of {total} annotations are broken",
        "no area: 1 (JPEGImages/image_1.png: box 5, 5, 5, 9)",
        "no box of four numbers: 1 (JPEGImages/image_1.png",
        f"unknown class: {dragons} (JPEGImages/",
        "class 'dragon'",
    ):
        assert part in str(error.value)
    rest, _ = voc(str(tmp_path), Wanted(classes=("aeroplane", "bicycle"), broken="drop"))
    kept = [Picture(each.name, each.pixels, tuple(t for t in each.things if t.label < 2)) for each in written]
    assert_read(rest, kept)
    assert "and removed: no area: 1" in notes_of(rest)[0]


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]><annotation>&j;</annotation>"
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB, "it has a document type"),
        (BOMB.encode("utf-16"), "it has a document type"),
        ("<annotation>", "it is no XML"),
        ("<annotation>" + "<a>" * 100_000, "it is nested more than 64 deep"),
        (b"<annotation>\xff\xfe</annotation>", "it is no XML"),
        ("", "it is no XML"),
        (b" " * (17 * 2**20), "it has more than 16,384 kB"),
    ],
)
def test_damaged_and_malicious_files_are_one_clear_error(tmp_path: Path, content: Any, said: str) -> None:
    written = unspaced(1)
    write(tmp_path, "train", written)
    path = tmp_path / "Annotations" / written[2].name.replace(".png", ".xml")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"{path.name} cannot be read: {said}"):
        voc(str(tmp_path), Wanted())


def test_what_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no Annotations/ with XML files"):
        voc(str(tmp_path), Wanted())
    with pytest.raises(DataError, match="no masks; use COCO JSON"):
        voc(str(tmp_path), Wanted(target="masks"))
    for name in ("a", "b"):
        write(tmp_path / name, "train", unspaced(1))
    with pytest.raises(DataError, match=r"several data sets: \['a', 'b'\]"):
        voc(str(tmp_path), Wanted())
    (tmp_path / "a" / "Annotations" / "image_1.xml").unlink()
    with pytest.raises(DataError, match=r"image_1.xml cannot be read: no such file"):
        voc(str(tmp_path / "a"), Wanted())
    for file in (tmp_path / "b" / "Annotations").iterdir():
        file.write_text("<annotation/>")
    with pytest.raises(DataError, match="none of its 4 images has an annotated object"):
        voc(str(tmp_path / "b"), Wanted())
