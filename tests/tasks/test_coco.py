"""COCO JSON: what was written is read, as torchvision's own wrapper reads it, and broken annotations are named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edakari.errors import DataError, MissingPackage
from edakari.tasks.sources.coco import coco
from edakari.tasks.sources.examples import Wanted, labels_of, notes_of, sizes_of
from tests.tasks.random_objects import Picture, assert_read, pictures

IDS = (7, 3, 90)
"""Ids of the categories, with gaps and out of order, as labels 1, 0 and 2."""
LABELS = {3: 0, 7: 1, 90: 2}
NAMES = {3: "cat", 7: "dog", 90: "bird"}
JOINTS = ["left_eye", "right_eye", "nose", "tail"]


def content(written: list[Picture]) -> dict[str, Any]:
    """The JSON of these pictures: polygons for the first object, both kinds of codes for others."""
    ids = {label: category for category, label in LABELS.items()}
    annotations = []
    for number, picture in enumerate(written):
        for thing in picture.things:
            left, top, right, bottom = thing.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 - number,
                    "category_id": ids[thing.label],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(thing.crowd),
                    "segmentation": segmentation(picture, thing, len(annotations) % 3),
                    "keypoints": thing.points.reshape(-1).tolist(),
                    "num_keypoints": int((thing.points[:, 2] > 0).sum()),
                }
            )
    images = [
        {"id": 100 - number, "file_name": picture.name, "height": picture.size[0], "width": picture.size[1]}
        for number, picture in enumerate(written)
    ]
    categories = [{"id": each, "name": NAMES[each], "keypoints": JOINTS} for each in IDS]
    return {"images": images, "annotations": annotations[::-1], "categories": categories}


def segmentation(picture: Picture, thing: Any, way: int) -> Any:
    if way == 0:
        return [thing.polygon]
    height, width = picture.size
    column = thing.mask(height, width).T.reshape(-1)
    runs = np.flatnonzero(np.diff(np.concatenate([[0], column, [0]])))
    counts = np.diff(np.concatenate([[0], runs, [len(column)]])).tolist()
    if way == 1:
        return {"size": [height, width], "counts": counts}
    from faster_coco_eval.core import mask

    code = mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode()}


def write(folder: Path, split: str, written: list[Picture], change: Any = None) -> Path:
    """COCO's own layout; `change` is a function that changes the JSON."""
    for picture in written:
        picture.save(folder / f"{split}2017")
    found = content(written)
    if change:
        change(found)
    path = folder / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path


def in_order(written: list[Picture]) -> list[Picture]:
    """Objects as they are read: annotations were written backwards."""
    return [Picture(each.name, each.pixels, each.things[::-1]) for each in written]


@pytest.mark.parametrize("what", ["boxes", "masks", "keypoints"])
def test_what_was_written_is_read(tmp_path: Path, what: Any) -> None:
    pytest.importorskip("faster_coco_eval")
    train, val = pictures(1), pictures(2, count=3)
    write(tmp_path, "train", train)
    write(tmp_path, "val", val)
    first, second = coco(str(tmp_path), Wanted(target=what))
    assert second is not None
    assert first.classes == second.classes == ("cat", "dog", "bird")
    assert_read(first, in_order(train), what)
    assert_read(pickle.loads(pickle.dumps(second)), in_order(val), what)
    assert sizes_of(first).tolist() == [list(each.size) for each in train]
    for index, picture in enumerate(in_order(train)):
        target = first[index][1]
        assert labels_of(first, index).tolist() == [thing.label for thing in picture.things]  # type: ignore[union-attr]
        assert target["iscrowd"].tolist() == [thing.crowd for thing in picture.things]
        assert target["image_id"] == 100 - index
        assert target["area"].tolist() == [float(thing.mask(*picture.size).sum()) for thing in picture.things]
    assert notes_of(first) == (f"COCO annotations {str(tmp_path / 'annotations' / 'instances_train2017.json')!r}: 1 of "
                               "4 images have no object; they stay",)  # fmt: skip
    if what == "keypoints":
        assert (first.joints, first.flip_pairs) == (tuple(JOINTS), ((0, 1),))  # type: ignore[attr-defined]


def test_boxes_and_masks_are_those_of_torchvision(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval").init_as_pycocotools()
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

    path = write(tmp_path, "train", pictures(3, count=5))
    keys = {"image_id", "boxes", "labels", "masks"}
    theirs = wrap_dataset_for_transforms_v2(CocoDetection(tmp_path / "train2017", path), target_keys=keys)
    ours, nothing = coco(str(path), Wanted(target="masks"))
    assert nothing is None
    found = {ours[index][1]["image_id"]: ours[index][1] for index in range(len(ours))}
    for index in range(1, 5):  # the wrapper has no boxes for images without objects
        target = theirs[4 - index][1]
        if "boxes" not in target:
            continue
        mine = found[target["image_id"]]
        assert torch.equal(mine["boxes"], target["boxes"])
        assert torch.equal(mine["masks"].to(torch.uint8), target["masks"].to(torch.uint8))
        assert mine["labels"].tolist() == [LABELS[category] for category in target["labels"].tolist()]


@pytest.mark.parametrize("layout", ["roboflow", "beside", "images", "named"])
def test_layouts_are_found(tmp_path: Path, layout: str) -> None:
    written = pictures(4, count=2)
    folder, file, argument = {
        "roboflow": (tmp_path / "train", tmp_path / "train" / "_annotations.coco.json", tmp_path),
        "beside": (tmp_path, tmp_path / "train.json", tmp_path),
        "images": (tmp_path / "images" / "train", tmp_path / "my_train.json", tmp_path),
        "named": (tmp_path / "x", tmp_path / "y.json", f"{tmp_path / 'y.json'}:{tmp_path / 'x'}"),
    }[layout]
    for picture in written:
        picture.save(folder)
    file.write_text(json.dumps(content(written)))
    first, second = coco(str(argument), Wanted())
    assert second is None
    assert_read(first, in_order(written))


def _broken(found: dict[str, Any]) -> None:
    """The objects, then eight more: one of each fault."""
    base = {"image_id": 99, "category_id": 3, "bbox": [1, 1, 4, 4], "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    for change in (
        {"bbox": [1, 1, 0, 4]},
        {"bbox": [8, 8, 400, 2]},
        {"category_id": 4},
        {"image_id": 1},
        {"bbox": [1, 1, 4]},
        {"bbox": [1, 1, float("nan"), 4]},
        {"segmentation": []},
        {"segmentation": {"size": [3, 3], "counts": [9]}},
    ):
        found["annotations"].append({**base, **change})


def test_broken_annotations_are_counted_named_and_treated_by_the_policy(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    written = pictures(5, count=2)
    path = str(write(tmp_path, "train", written, _broken))
    whole = len(written[1].things)
    with pytest.raises(DataError) as error:
        coco(path, Wanted(target="masks", broken="stop"))
    said = str(error.value)
    for part in (
        f"8 of {whole + 8} annotations are broken",
        "no area: 2 (image 1.png: box 1, 1, 1, 5",
        "beyond the image: 1 (image 1.png: box 8, 8, 408, 10)",
        "unknown class: 1 (image 1.png: annotation None of category 4)",
        "an image that is not listed: 1 (annotation None of image id 1)",
        "no box of four numbers: 1 (",
        "no mask, or a damaged one: 1 (",
        "a mask of another size than the image: 1 (",
    ):
        assert part in said
    dropped, _ = coco(path, Wanted(target="masks", broken="drop"))
    assert_read(dropped, in_order(written), "masks")
    assert f"8 of {whole + 8} annotations are broken and removed" in notes_of(dropped)[0]
    clipped, _ = coco(path, Wanted(target="boxes", broken="clip"))
    boxes = clipped[1][1]["boxes"]
    assert len(boxes) == whole + 3, "without wanting masks, those without one are whole"
    width = written[1].size[1]
    assert [8, 8, width, 10] in boxes.tolist()
    assert float(clipped[1][1]["area"][boxes[:, 0] == 8][-1]) == (width - 8) * 2


def test_a_wrong_number_of_keypoints_is_broken(tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["annotations"][0]["keypoints"] = [1, 1, 2]

    path = str(write(tmp_path, "train", pictures(6, count=2), change))
    with pytest.raises(DataError, match="a wrong number of keypoints: 1"):
        coco(path, Wanted(target="keypoints", broken="stop"))
    coco(path, Wanted(target="boxes", broken="stop"))


def test_missing_images_are_counted(tmp_path: Path) -> None:
    written = pictures(7, count=4)
    path = str(write(tmp_path, "train", written))
    (tmp_path / "train2017" / written[2].name).unlink()
    with pytest.raises(DataError, match="a missing image: "):
        coco(path, Wanted(broken="stop"))
    rest, _ = coco(path, Wanted())
    assert_read(rest, in_order([written[0], written[1], written[3]]))
    assert "1 of 4 images are missing or unreadable (image 2.png)" in " ".join(notes_of(rest))


def _remove(*keys: str) -> Any:
    return lambda found: [found.pop(key) for key in keys]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_remove("images"), "it has no list 'images'"),
        (_remove("categories"), "it has no list 'categories'"),
        (lambda found: found["annotations"].clear(), "none of its 3 images has an annotated object"),
        (lambda found: found["categories"].clear(), "it declares no classes"),
        (lambda found: found["images"].append(found["images"][0]), "two images have one id"),
        (lambda found: found["images"][0].update(file_name="../x.png"), "leads out of the folder"),
        (lambda found: found["categories"][0].update(name="bird"), "two classes are named 'bird'"),
        (lambda found: found["images"][0].update(height="9"), "a whole number is needed"),
        (lambda found: found["images"][0].pop("file_name"), "it has no key 'file_name'"),
    ],
)
def test_a_file_of_another_form_is_one_clear_error(tmp_path: Path, change: Any, said: str) -> None:
    path = write(tmp_path, "train", pictures(8, count=3), change)
    with pytest.raises(DataError, match=said):
        coco(str(path), Wanted())


def test_nothing_found_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for annotations/instances_train\*.json, .*_annotations.coco.json"):
        coco(str(tmp_path), Wanted())
    path = write(tmp_path, "train", pictures(9, count=2))
    path.with_name("instances_train2014.json").write_text("{}")
    with pytest.raises(DataError, match=r"has several annotation files of the train split.*2014.*2017"):
        coco(str(tmp_path), Wanted())
    alone = tmp_path / "alone"
    alone.mkdir()
    path.rename(alone / "x.json")
    with pytest.raises(DataError, match=r"its images, such as 'image 0.png', are in none of .*/alone/images.*:IMAGES"):
        coco(str(alone / "x.json"), Wanted())


def test_validation_of_other_classes_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "train", pictures(1))
    write(tmp_path, "val", pictures(2), lambda found: found["categories"][0].update(name="fish"))
    with pytest.raises(DataError, match=r"other classes than the training data: unknown \['fish'\]"):
        coco(str(tmp_path), Wanted())


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "train", pictures(1), lambda found: found["images"][1].update(height=900, width=700))
    examples, _ = coco(str(path), Wanted())
    with pytest.raises(DataError, match=r"image 1.png has \d+x\d+ pixels, but COCO .* says 700x900"):
        examples[1]


def test_damaged_codes_are_an_error_that_names_the_image(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")

    def change(found: dict[str, Any]) -> None:
        found["annotations"][-1]["segmentation"] = {
            "size": [found["images"][1][key] for key in ("height", "width")],
            "counts": "zzzzzzzz",
        }

    examples, _ = coco(str(write(tmp_path, "train", pictures(1), change)), Wanted(target="masks"))
    with pytest.raises(DataError, match=r"image 1.png: the mask of its object \d is damaged"):
        examples[1]


def test_masks_without_their_library_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples, _ = coco(str(write(tmp_path, "train", pictures(1))), Wanted())
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval.core", None)
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    assert examples[1], "boxes need no library"
    with pytest.raises(MissingPackage, match=r'pip install "edakari\[detection\]"'):
        coco(str(tmp_path / "annotations" / "instances_train2017.json"), Wanted(target="masks"))
