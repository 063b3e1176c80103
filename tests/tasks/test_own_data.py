"""Data sets of somebody else: all common forms of an item become one; what is wrong is told with what came."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import convert_bounding_box_format

from edakari.errors import DataError, EdakariError
from edakari.tasks.sources.examples import Wanted, labels_of
from edakari.tasks.sources.formats import read_examples
from edakari.tasks.sources.own_data import from_dataset
from tests.tasks.random_objects import Picture, assert_form, assert_read, pictures


@dc.dataclass
class Given:
    """A data set of these items."""

    items: Any
    classes: Any = ("cat", "dog", "bird")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def target_of(picture: Picture) -> dict[str, Any]:
    things = picture.things
    masks = [thing.mask(*picture.size) for thing in things]
    return {
        "boxes": [list(thing.box) for thing in things],
        "labels": [thing.label for thing in things],
        "masks": np.array(masks, np.uint8).reshape(-1, *picture.size),
        "keypoints": np.array([thing.points for thing in things]).reshape(len(things), 4, 3),
    }


def as_lists(picture: Picture) -> Any:
    return Image.fromarray(picture.pixels), target_of(picture)


def as_tensors(picture: Picture) -> Any:
    target = {key: torch.as_tensor(np.asarray(value)) for key, value in target_of(picture).items()}
    target["boxes"] = target["boxes"].reshape(-1, 4).double()
    target["visible"] = target["keypoints"][..., 2].float()
    target["keypoints"] = target["keypoints"][..., :2]
    return torch.from_numpy(picture.pixels).permute(2, 0, 1).double() / 255, {**target, "image_id": torch.tensor(3)}


def as_tv_tensors(picture: Picture) -> Any:
    target = as_tensors(picture)[1]
    how = {"canvas_size": picture.size}
    boxes = tv_tensors.BoundingBoxes(target["boxes"].float(), format=tv_tensors.BoundingBoxFormat.XYXY, **how)
    target["boxes"] = convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.CXCYWH)
    target["masks"] = tv_tensors.Mask(target["masks"].bool())
    target["keypoints"] = tv_tensors.KeyPoints(target["keypoints"].float(), **how)
    return tv_tensors.Image(torch.from_numpy(picture.pixels).permute(2, 0, 1)), target


def as_arrays(picture: Picture) -> Any:
    return picture.pixels, {key: np.asarray(value) for key, value in target_of(picture).items()}


@pytest.mark.parametrize("what", ["boxes", "masks", "keypoints"])
@pytest.mark.parametrize("form", [as_lists, as_tensors, as_tv_tensors, as_arrays])
def test_every_form_of_an_item_becomes_the_same(what: Any, form: Any) -> None:
    written = pictures(1)
    examples = from_dataset(Given([form(picture) for picture in written]), "data", Wanted(what, broken="stop"))
    assert_read(examples, written, what, near=1e-5)
    assert examples[2][1]["area"].tolist() == [float(thing.mask(99, 99).sum()) for thing in written[2].things]
    assert labels_of(examples, 0) is None
    if what == "keypoints":
        assert examples.joints == ("0", "1", "2", "3")


@pytest.mark.parametrize("form", ["dict", "bare", "pil", "channel"])
def test_every_form_of_a_map_becomes_the_same(form: str) -> None:
    random = np.random.default_rng(1)
    pixels, labels = random.integers(0, 256, (6, 8, 3), dtype=np.uint8), random.integers(0, 3, (6, 8))
    labels[0, 0] = 255
    target = {
        "dict": {"map": labels.tolist()},
        "bare": torch.from_numpy(labels).byte(),
        "pil": Image.fromarray(labels.astype(np.uint8)),
        "channel": tv_tensors.Mask(torch.from_numpy(labels)[None]),
    }[form]
    image, found = from_dataset(Given([(pixels, target)]), "data", Wanted("map"))[0]
    assert_form(image, found, "map")
    assert np.array_equal(np.asarray(found["map"]), labels)


PIXELS = torch.zeros(3, 8, 9, dtype=torch.uint8)
GOOD = {"boxes": [[0, 0, 4, 4]], "labels": [1]}


@pytest.mark.parametrize(
    ("item", "expected", "found"),
    [
        (PIXELS, r"a pair \(image, target\)", r"Tensor uint8 \[3, 8, 9\]"),
        ((PIXELS, GOOD, 1), r"a pair \(image, target\)", "a tuple of 3"),
        (("a.png", GOOD), "an image", "a.png"),
        ((PIXELS.float() - 1, GOOD), "leave normalisation to the task", "float values from -1 to -1"),
        ((PIXELS.int(), GOOD), "an image", "Tensor int32"),
        ((torch.zeros(4, 8, 9), GOOD), "an image", r"Tensor float32 \[4, 8, 9\]"),
        ((Image.new("I", (9, 8)), GOOD), "an image", "an? Image of mode I"),
        ((PIXELS, [GOOD]), "wrap_dataset_for_transforms_v2", "a list of 1"),
        ((PIXELS, {"boxes": []}), r"the keys \['boxes', 'labels'\]", r"\['boxes'\]"),
        ((PIXELS, {**GOOD, "labels": [1, 2]}), r"`labels` of the shape \[1\]", r"\[2\]"),
        ((PIXELS, {**GOOD, "labels": [3]}), "labels from 0 to 2, without a background", "labels from 3 to 3"),
        ((PIXELS, {**GOOD, "labels": ["cat"]}), "`labels` of numbers", "a list of 1|cat"),
        ((PIXELS, {**GOOD, "boxes": [[0, 0, 4]]}), r"`boxes` of the shape \['n', 4\]", r"\[1, 3\]"),
        ((PIXELS, {**GOOD, "area": [1, 2]}), r"`area` of the shape \[1\]", r"\[2\]"),
    ],
)
def test_what_is_wrong_is_told_with_what_was_expected(item: Any, expected: str, found: str) -> None:
    with pytest.raises(DataError, match=rf"data, item 0: expected .*{expected}.*, found {found}"):
        from_dataset(Given([item]), "data", Wanted())


def test_boxes_without_area_or_outside_follow_the_policy() -> None:
    boxes = [[0, 0, 4, 4], [2, 2, 2, 6], [5, 5, 50, 7], [40, 40, 50, 50]]
    data = Given([(PIXELS, {"boxes": boxes, "labels": [0, 1, 2, 1]})])
    with pytest.raises(DataError, match=r"item 0: box 1 has no area: \[2.0, 2.0, 2.0, 6.0\] in an image of 9x8"):
        from_dataset(data, "data", Wanted(broken="stop"))
    assert from_dataset(data, "data", Wanted(broken="drop"))[0][1]["labels"].tolist() == [0]
    clipped = from_dataset(data, "data", Wanted(broken="clip"))[0][1]
    assert (clipped["labels"].tolist(), clipped["boxes"].tolist()) == ([0, 2], [[0, 0, 4, 4], [5, 5, 9, 7]])
    assert clipped["area"].tolist() == [16, 90], "the data set's own, or that of the box as it was"


def test_another_number_of_keypoints_is_refused() -> None:
    def item(count: int) -> Any:
        return PIXELS, {**GOOD, "keypoints": np.ones((1, count, 3))}

    examples = from_dataset(Given([(PIXELS, {"boxes": [], "labels": [], "keypoints": []}), item(4), item(5)]), "data",
                            Wanted("keypoints"))  # fmt: skip
    assert (examples.joints, examples[0][1]["keypoints"].shape) == (("0", "1", "2", "3"), (0, 4, 2))
    with pytest.raises(DataError, match=r"item 2: expected 4 keypoints of each object, found \[1, 5, 3\]"):
        examples[2]


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (iter([1]), "a map-style data set is needed"),
        ((each for each in [1]), r"cannot be shuffled or split"),
        (Given([]), "it is empty"),
        (Given([(PIXELS, GOOD)], None), "it has no `classes`"),
        (Given([(PIXELS, GOOD)], "cat"), "it has no `classes`"),
        (3, "a map-style data set is needed"),
    ],
)
def test_what_is_no_data_set_is_refused(dataset: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        from_dataset(dataset, "data", Wanted())


FILE = """
import torch

class Squares(torch.utils.data.Dataset):
    classes = ["square"]
    joints = ["left", "right"]
    flip_pairs = [(0, 1)]

    def __init__(self, count=3):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == 2:
            raise OSError("the disk is gone")
        image = torch.zeros(3, 16, 16, dtype=torch.uint8)
        image[:, 2:6, 2:6 + index] = 255
        return image, {"boxes": [[2, 2, 6 + index, 6]], "labels": [0], "keypoints": [[[2, 2, 2], [5, 2, 1]]]}

def both():
    return Squares(), Squares(2)

def other():
    found = Squares()
    found.classes = ["circle"]
    return Squares(), found

def broken():
    raise KeyError("path")

thing = 3
"""


def test_a_file_outside_of_the_package_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "squares.py"
    path.write_text(FILE)
    train, val = read_examples(f"{path}:both", Wanted("keypoints"))
    assert val is not None
    assert (len(train), len(val), train.classes) == (3, 2, ("square",))
    assert (train.joints, train.flip_pairs) == (("left", "right"), ((0, 1),))  # type: ignore[attr-defined]
    assert_form(*train[1], "keypoints")
    assert train[1][1]["boxes"].tolist() == [[2, 2, 7, 6]]
    with pytest.raises(DataError, match="item 2 cannot be read: OSError: the disk is gone"):
        train[2]
    alone, nothing = read_examples("", Wanted(), train=[f"{path}:Squares"], val=None)
    assert (len(alone), nothing) == (3, None)
    for name, said in (
        ("other", "other classes than the training data"),
        ("broken", "calling it without arguments fails: KeyError"),
        ("thing", "both"),
        ("nowhere", "Squares"),
    ):
        with pytest.raises(EdakariError, match=said):
            read_examples(f"{path}:{name}", Wanted())
    with pytest.raises(DataError, match="there is no file"):
        read_examples(f"{tmp_path}/x.py:both", Wanted())
