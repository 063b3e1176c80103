"""Formats with a class at every pixel: the map that was written is read, as numbers or colours; faults are named."""

from __future__ import annotations

import dataclasses as dc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edakari.errors import DataError
from edakari.tasks.sources.examples import Examples, Wanted, notes_of, sizes_of
from edakari.tasks.sources.formats import read_examples
from tests.tasks.random_objects import assert_form
from tests.tasks.scenes import Pixels, Scene, ade20k, cityscapes, pairs, save, scenes

MAP = Wanted("map")


def assert_maps(examples: Examples, written: list[Scene]) -> None:
    assert len(examples) == len(written)
    examples = pickle.loads(pickle.dumps(examples))
    for index, scene in enumerate(written):
        image, target = examples[index]
        assert_form(image, target, "map")
        assert torch.equal(image.as_subclass(torch.Tensor), torch.from_numpy(scene.image).permute(2, 0, 1))
        assert np.array_equal(np.asarray(target["map"]), scene.labels)
    assert sizes_of(examples).tolist() == [list(scene.labels.shape) for scene in written]
    with pytest.raises(IndexError):
        examples[len(written)]


def folder(root: Path, train: list[Scene], val: list[Scene]) -> str:
    for split, written in (("train", train), ("val", val)):
        for number, scene in enumerate(written):
            save(root / split / "images" / f"{number}.png", scene.image)
            save(root / split / "labels" / f"{number}.png", scene.labels)
    return str(root)


def listed_folder(root: Path, train: list[Scene], val: list[Scene]) -> str:
    for split, written in (("train", train), ("val", val)):
        for number, scene in enumerate(written):
            save(root / "images" / f"{split}{number}.png", scene.image)
            save(root / "labels" / f"{split}{number}.png", scene.labels)
        (root / f"{split}.txt").write_text("".join(f"{split}{number}\n" for number in range(len(written))))
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    return f"folder:{root}"


def camvid(root: Path, train: list[Scene], val: list[Scene]) -> str:
    home = root / "CamVid"
    for split, written in (("train", train), ("val", val)):
        pairs(home, split, written, lambda labels: np.where(labels == 255, 1, np.array([0, 2, 3])[labels % 5 % 3]))
    (home / "classes.txt").write_text("sky\nUnlabelled(ignore)\nroad\ncar\n")
    return f"camvid:{root}"


COLOURS = np.zeros((256, 3), np.uint8)
COLOURS[:3], COLOURS[255] = [(128, 128, 128), (64, 0, 128), (0, 0, 192)], (0, 0, 0)


def _coloured(name: str, text: str) -> Any:
    def write(root: Path, train: list[Scene], val: list[Scene]) -> str:
        for split, written in (("train", train), ("val", val)):
            pairs(root, split, written, lambda labels: COLOURS[labels])
        (root / name).write_text(text)
        return f"camvid:{root}"

    return write


def _voc(root: Path, written: dict[str, list[Scene]], draw: Callable[[Path, Pixels], None]) -> None:
    for split, each in written.items():
        for number, scene in enumerate(each):
            save(root / "JPEGImages" / f"{split}{number}.png", scene.image)
            draw(root / "SegmentationClass" / f"{split}{number}.png", scene.labels)
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{split}{number}\n" for number in range(len(each))))


def voc(root: Path, train: list[Scene], val: list[Scene]) -> str:
    def draw(path: Path, labels: Pixels) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(bytes(range(256)) * 3)
        image.save(path)

    _voc(root / "VOC2012", {"train": train, "val": val}, draw)
    return f"voc:{root}"


def voc_coloured(root: Path, train: list[Scene], val: list[Scene]) -> str:
    _voc(root, {"train": train, "val": val}, lambda path, labels: save(path, COLOURS[labels]))
    lines = ["# label:color_rgb:parts:actions", "sky:128,128,128::", "road:64,0,128::", "car:0,0,192::", "void:0,0,0::"]
    (root / "labelmap.txt").write_text("\n".join(lines))
    return f"voc:{root}"


FORMATS = {
    "folder": (folder, 3, ("0", "1", "2")),
    "listed": (listed_folder, 3, ("sky", "road", "car")),
    "cityscapes": (cityscapes, 19, ("road", "sidewalk", "building")),
    "ade20k": (ade20k, 150, ("thing 1", "thing 2", "thing 3")),
    "camvid": (camvid, 3, ("sky", "road", "car")),
    "segnet": (
        _coloured("label_colors.txt", "128 128 128 sky\n64 0 128 road\n0 0 192\tcar\n0 0 0 Void\n"),
        3,
        ("sky", "road", "car"),
    ),
    "csv": (
        _coloured("class_dict.csv", "name,r,g,b\nsky,128,128,128\nroad,64,0,128\ncar,0, 0, 192\nVoid,0,0,0\n"),
        3,
        ("sky", "road", "car"),
    ),
    "voc": (voc, 21, ("background", "aeroplane", "bicycle")),
    "voc coloured": (voc_coloured, 3, ("sky", "road", "car")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_written_is_read(tmp_path: Path, name: str) -> None:
    write, classes, names = FORMATS[name]
    train, val = scenes(1, classes), scenes(2, classes, count=2)
    first, second = read_examples(write(tmp_path, train, val), MAP)
    assert second is not None
    assert (first.classes[:3], len(first.classes)) == (names, classes)
    assert second.classes == first.classes
    assert_maps(first, train)
    assert_maps(second, val)
    with pytest.raises(DataError, match=r"boxes are wanted|no Annotations"):
        read_examples(f"folder:{tmp_path}" if name == "folder" else write(tmp_path, train, val), Wanted("boxes"))


def test_maps_of_arrays_are_read(tmp_path: Path) -> None:
    written = scenes(3, 4, size=(9, 7))
    arrays = {
        "images": np.stack([each.image for each in written]),
        "labels": np.stack([each.labels for each in written]),
    }
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    first, second = read_examples(str(tmp_path / "x.npz"), MAP)
    assert second is None
    assert first.classes == ("0", "1", "2", "3")
    assert_maps(first, written)
    with pytest.raises(DataError, match="there are 2 classes"):
        read_examples(str(tmp_path / "x.npz"), dc.replace(MAP, classes=("a", "b")))


def test_another_value_is_ignored_where_the_recipe_says_so(tmp_path: Path) -> None:
    written = [Scene(each.image, np.where(each.labels == 255, 9, each.labels)) for each in scenes(4, 3)]
    first, _ = read_examples(folder(tmp_path, written, written), dc.replace(MAP, ignore_index=9))
    assert len(first.classes) == 3
    assert_maps(first, written)
    text = cityscapes(tmp_path / "c", scenes(4, 19), scenes(4, 19))
    first, _ = read_examples(text, dc.replace(MAP, ignore_index=-100))
    assert_maps(first, [Scene(each.image, np.where(each.labels == 255, -100, each.labels)) for each in scenes(4, 19)])


def test_instances_have_masks_and_boxes(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    for number in range(3):
        labels = np.zeros((20, 30), np.uint8)
        for thing in range(number * 2):
            row, column = random.integers(0, 18), random.integers(0, 28)
            labels[row : row + 4, column : column + 3] = (7, 255, 3, 1)[thing]
        save(tmp_path / "images" / f"{number}.png", random.integers(0, 256, (20, 30, 3)))
        save(tmp_path / "labels" / f"{number}.png", labels)
    first, _ = read_examples(f"instances:{tmp_path}", Wanted("masks"))
    assert first.classes == ("object",)
    for index in range(3):
        image, target = first[index]
        assert_form(image, target, "masks")
        labels = np.asarray(Image.open(tmp_path / "labels" / f"{index}.png"))
        assert len(target["masks"]) == len(np.unique(labels)) - 1
        for mask, (left, top, right, bottom), area, number in zip(
            target["masks"], target["boxes"].int().tolist(), target["area"], np.unique(labels)[1:], strict=True
        ):
            assert np.array_equal(mask.numpy(), labels == number)
            rows, columns = np.where(labels == number)
            assert (left, right, top, bottom) == (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
            assert area == (labels == number).sum()
    everywhere, _ = read_examples(f"instances:{tmp_path}", MAP)
    assert everywhere.classes == ("background", "object")
    assert np.array_equal(np.asarray(everywhere[2][1]["map"]), labels > 0)
    with pytest.raises(DataError, match="keypoints are wanted"):
        read_examples(f"instances:{tmp_path}", Wanted("keypoints"))


def test_missing_and_differing_maps_are_counted_and_named(tmp_path: Path) -> None:
    written = scenes(6, 3, count=5)
    text = camvid(tmp_path, written, written)
    home = tmp_path / "CamVid"
    (home / "train" / "1.png").unlink()
    (home / "trainannot" / "2.png").unlink()
    save(home / "trainannot" / "3.png", np.zeros((5, 5)))
    with pytest.raises(DataError) as error:
        read_examples(text, dc.replace(MAP, broken="stop"))
    for part in (
        "3 of 5 annotations are broken",
        "a missing image: 1 (",
        "a missing or unreadable map: 1 (train/2.png with CamVid/trainannot/2.png)",
        "a map of another size than the image: 1 (",
    ):
        assert part in str(error.value)
    rest, _ = read_examples(text, MAP)
    assert_maps(rest, [written[0], written[4]])
    assert "3 of 5 annotations are broken and removed" in notes_of(rest)[0]


def test_values_of_no_class_are_named(tmp_path: Path) -> None:
    written = scenes(7, 3)
    text = listed_folder(tmp_path, written, written)
    bad = written[1].labels.copy()
    bad[0, 0] = 77
    save(tmp_path / "labels" / "train1.png", bad)
    examples, _ = read_examples(text, MAP)
    with pytest.raises(
        DataError, match=r"train1.png: 1 of its pixels have values that stand for no class, such as \[77"
    ):
        examples[1]
    save(tmp_path / "labels" / "train0.png", written[0].labels[:, ::-1].T)
    text = _coloured("classes.txt", "1 2 3 a\n4 5 6 b\n")(tmp_path / "c", written, written)
    examples, _ = read_examples(text, MAP)
    with pytest.raises(DataError, match=r"stand for no class, such as \['#0000"):
        examples[0]


def test_a_rotation_of_one_alone_is_refused(tmp_path: Path) -> None:
    written = [scenes(8, 3, size=(9, 7))[0], *scenes(9, 3)]
    text = folder(tmp_path, written, written)
    exif = Image.Exif()
    exif[0x0112] = 3
    save(tmp_path / "train" / "images" / "0.png", written[0].image, exif=exif)
    examples, _ = read_examples(text, MAP)
    with pytest.raises(DataError, match=r"its EXIF orientation is 1 and that of .* is 3"):
        examples[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("camvid:{0}", "there is no train.txt in it"),
        ("cityscapes:{0}", "there is no leftImg8bit/train and no gtFine/train in it"),
        ("ade20k:{0}", "there is no annotations/training in it"),
        ("voc:{0}", "there is no SegmentationClass/ in it"),
        ("folder:{0}", "has no images/ and labels/ in it"),
        ("{0}", "has no images/ and labels/ in it"),
        ("npz:{0}/x.npz", "there is no such file"),
    ],
)
def test_what_is_not_there_is_a_clear_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_examples(text.format(tmp_path), MAP)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("", "lists no classes"),
        ("a\na\n", "lists a name twice"),
        ("1 2 3 a\n1 2 3 b\n", "lists a colour twice"),
        ("1 2 3 a\nb\n", "has colours, but none in the line 'b'"),
        ("1 2 300 a\n", "three numbers from 0 to 255"),
        ("a\n", "all pixels are of one class"),
    ],
)
def test_lists_of_classes_are_checked(tmp_path: Path, classes: str, said: str) -> None:
    text = camvid(tmp_path, scenes(1, 3), scenes(2, 3))
    (tmp_path / "CamVid" / "classes.txt").write_text(classes)
    with pytest.raises(DataError, match=said):
        read_examples(text, MAP)
