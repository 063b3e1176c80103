"""YOLO text files: what was written is read, in every layout; lines of another form are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edakari.errors import DataError
from edakari.tasks.sources.examples import Wanted, labels_of, notes_of, sizes_of
from edakari.tasks.sources.yolo import yolo
from tests.tasks.random_objects import Picture, assert_read, pictures

HEAD = "names: {0: cat, 1: dog, 2: bird}\nkpt_shape: [4, 3]\nflip_idx: [1, 0, 2, 3]\n"
NEAR = 1e-3
"""Pixels by which text with seven digits differs."""


def line_of(picture: Picture, thing: Any, what: str) -> str:
    height, width = picture.size
    left, top, right, bottom = thing.box
    if what == "masks":
        return f"{thing.label} " + " ".join(
            f"{value / side:.17g}" for value, side in zip(thing.polygon, (width, height) * 4, strict=True)
        )
    box = f"{thing.label} {(left + right) / 2 / width:.7f} {(top + bottom) / 2 / height:.7f} "
    box += f"{(right - left) / width:.7f} {(bottom - top) / height:.7f}"
    if what == "keypoints":
        box += "".join(f" {x / width:.7f} {y / height:.7f} {visible}" for x, y, visible in thing.points)
    return box


def write(root: Path, split: str, written: list[Picture], what: str = "boxes") -> None:
    """images/SPLIT and labels/SPLIT; no label file where an image shows nothing."""
    for picture in written:
        picture.save(root / "images" / split)
        path = (root / "labels" / split / picture.name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        if picture.things:
            path.write_text("".join(f"{line_of(picture, thing, what)}\n" for thing in picture.things))


@pytest.mark.parametrize("what", ["boxes", "masks", "keypoints"])
def test_what_was_written_is_read(tmp_path: Path, what: Any) -> None:
    pytest.importorskip("faster_coco_eval")
    train, val = pictures(1, count=6), pictures(2)
    write(tmp_path, "train", train, what)
    write(tmp_path, "val", val, what)
    (tmp_path / "data.yaml").write_text(f"{HEAD}train: images/train\nval: images/val\n")
    first, second = yolo(str(tmp_path), Wanted(target=what))
    assert second is not None
    assert first.classes == second.classes == ("cat", "dog", "bird")
    assert_read(first, train, what, NEAR)
    assert_read(second, val, what, NEAR)
    assert sizes_of(first).tolist() == [list(each.size) for each in train]
    assert [labels_of(first, at).tolist() for at in range(6)] == [  # type: ignore[union-attr]
        [thing.label for thing in picture.things] for picture in train
    ]
    assert not first[1][1]["iscrowd"].any()
    assert "1 of 6 images have no object; they stay" in notes_of(first)[0]
    if what == "keypoints":
        assert (len(first.joints), first.flip_pairs) == (4, ((0, 1),))  # type: ignore[attr-defined]


def test_boxes_are_read_of_lines_with_polygons_or_keypoints_too(tmp_path: Path) -> None:
    for what in ("masks", "keypoints"):
        root, written = tmp_path / what, pictures(3)
        write(root, "train", written, what)
        (root / "data.yaml").write_text(f"{HEAD}train: images/train\n")
        assert_read(yolo(str(root / "data.yaml"), Wanted(broken="stop"))[0], written, near=NEAR)


def _roboflow(root: Path, written: list[Picture]) -> str:
    for picture in written:
        picture.save(root / "train" / "images")
    write(root / "train", "", written)
    return "train: ../train/images\nval:\n"


def _beside(root: Path, written: list[Picture]) -> str:
    for picture in written:
        picture.save(root / "all")
        if picture.things:
            lines = "\n".join(line_of(picture, thing, "boxes") for thing in picture.things)
            (root / "all" / picture.name).with_suffix(".txt").write_text(lines)
    return f"path: {root}\ntrain: [all]\n"


def _listed(root: Path, written: list[Picture]) -> str:
    write(root / "deep", "images", written)  # the last folder of the name is the one that counts
    moved = root / "deep" / "images" / "labels"
    (root / "deep" / "labels" / "images").rename(moved)
    lines = [f"./images/images/{written[0].name}", f"deep/images/images/{written[1].name}"]
    lines += [str(root / "deep" / "images" / "images" / picture.name) for picture in written[2:]]
    (root / "deep" / "list.txt").write_text("\n".join(lines))
    return "train: deep/list.txt\n"


@pytest.mark.parametrize("layout", [_roboflow, _beside, _listed])
def test_layouts_are_found(tmp_path: Path, layout: Any) -> None:
    written = pictures(4)
    split = layout(tmp_path, written)
    (tmp_path / "data.yaml").write_text(f"names: [cat, dog, bird]\n{split}")
    first, second = yolo(str(tmp_path), Wanted(broken="stop"))
    assert second is None
    assert_read(first, written, near=NEAR)


def test_lines_of_another_form_and_unreadable_images_are_counted(tmp_path: Path) -> None:
    written = pictures(5)
    write(tmp_path, "train", written)
    (tmp_path / "data.yaml").write_text(f"{HEAD}train: images/train\n")
    path = tmp_path / "labels" / "train" / "image 1.txt"
    total = sum(len(picture.things) for picture in written) + 6
    more = ["7 .5 .5 .1 .1", "x .5 .5 .1 .1", "1 .5 .5 .1", "1 .5 .5 0 .1", "1 .5 .5 nan .1", "1.5 .5 .5 .1 .1"]
    path.write_text(path.read_text() + "\n".join(more))
    first_line = len(written[1].things) + 1
    with pytest.raises(DataError) as error:
        yolo(str(tmp_path), Wanted(broken="stop"))
    for part in (
        f"6 of {total} annotations are broken",
        f"unknown class: 1 (images/train/image 1.png: line {first_line} of its labels: '7 .5 .5 .1 .1')",
        f"not in the form that the format demands: 3 (images/train/image 1.png: line {first_line + 1}",
        "no area: 2",
    ):
        assert part in str(error.value)
    assert_read(yolo(str(tmp_path), Wanted(broken="drop"))[0], written, near=NEAR)
    (tmp_path / "images" / "train" / "image 2.png").write_bytes(b"no image")
    rest, _ = yolo(str(tmp_path), Wanted(broken="drop"))
    assert_read(rest, [written[0], written[1], written[3]], near=NEAR)
    assert "1 of 4 images are missing or unreadable (images/train/image 2.png)" in " ".join(notes_of(rest))


def test_keypoints_need_their_number(tmp_path: Path) -> None:
    written = pictures(5)
    write(tmp_path, "train", written, "keypoints")
    for head, said in (
        ("", "keypoints need `kpt_shape`: .*found None"),
        ("kpt_shape: [4, 5]\n", "keypoints need `kpt_shape`"),
        ("kpt_shape: [4, 3]\nflip_idx: [1, 2, 0, 3]\n", "its `flip_idx` must say for each of the 4"),
    ):
        (tmp_path / "data.yaml").write_text(f"names: [cat, dog, bird]\n{head}train: images/train\n")
        with pytest.raises(DataError, match=said):
            yolo(str(tmp_path), Wanted(target="keypoints"))
    (tmp_path / "data.yaml").write_text("names: [cat, dog, bird]\nkpt_shape: [5, 3]\ntrain: images/train\n")
    with pytest.raises(DataError, match="a wrong number of keypoints: "):
        yolo(str(tmp_path), Wanted(target="keypoints", broken="stop"))


def test_coordinates_are_those_of_the_rotated_image(tmp_path: Path) -> None:
    written = pictures(6, count=2)
    write(tmp_path, "train", written)
    (tmp_path / "data.yaml").write_text(f"{HEAD}train: images/train\n")
    path = tmp_path / "images" / "train" / written[1].name
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(written[1].pixels).rotate(90, expand=True).save(path, exif=exif)
    assert_read(yolo(str(tmp_path), Wanted())[0], written, near=NEAR)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("names: [a]\n", "has no `train`"),
        ("names: [a]\ntrain: nowhere\n", "there is no .*nowhere"),
        ("names: {1: a}\ntrain: images\n", "its `names` must be a list"),
        ("train: images\n", "its `names` must be a list"),
        ("names: [a, a]\ntrain: images\n", "two classes are named 'a'"),
        ("names: [a]\ntrain: {a: b}\n", "its `train` and `val` must be paths"),
        ("- a\n", "it is no mapping"),
        ("names: [", "cannot be read"),
        ("names: [a]\ntrain: labels\n", "there are no images in 'labels'"),
    ],
)
def test_a_file_of_another_form_is_one_clear_error(tmp_path: Path, content: str, said: str) -> None:
    write(tmp_path, "train", pictures(7, count=2))
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=said):
        yolo(str(tmp_path), Wanted())


def test_a_folder_with_several_files_names_them(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text("names: [a]\n")
    with pytest.raises(DataError, match=r"has 2 YAML files \(\['a.yaml', 'b.yml'\]\); name the one"):
        yolo(str(tmp_path), Wanted())
