"""WebDataset shards and Hugging Face data sets: what was written is read, without unpacking and without a network."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edakari.errors import DataError, EdakariError
from edakari.tasks.sources.examples import Wanted, labels_of, notes_of, sizes_of
from edakari.tasks.sources.formats import read_examples
from tests.tasks.random_objects import Picture, Thing, assert_form, assert_read, pictures

CLASSES = ("cat", "dog", "bird")


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def annotation(picture: Picture, number: int) -> dict[str, Any]:
    """Labels are names in every second picture; masks are polygons."""
    return {
        "boxes": [thing.box for thing in picture.things],
        "labels": [CLASSES[thing.label] if number % 2 else thing.label for thing in picture.things],
        "masks": [[thing.polygon] for thing in picture.things],
        "keypoints": [thing.points.tolist() for thing in picture.things],
        "iscrowd": [thing.crowd for thing in picture.things],
    }


def shard(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("x")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def samples(written: list[Picture]) -> dict[str, bytes]:
    files = {}
    for number, picture in enumerate(written):
        files[f"x/{number:03d}.png"] = png(picture.pixels)
        files[f"x/{number:03d}.json"] = json.dumps(annotation(picture, number)).encode()
        files[f"x/{number:03d}.txt"] = b"a caption"
    return files


@pytest.mark.parametrize("what", ["boxes", "masks", "keypoints"])
def test_shards_are_read_at_random(tmp_path: Path, what: Any) -> None:
    pytest.importorskip("faster_coco_eval")
    parts = [pictures(seed, count=3) for seed in range(4)]
    for number, part in enumerate(parts[:3]):
        shard(tmp_path / f"train-{number:04d}.tar", samples(part))
    shard(tmp_path / "val-0000.tar", samples(parts[3]))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    first, second = read_examples(f"webdataset:{tmp_path}", Wanted(what, broken="stop"))
    assert second is not None
    assert first.classes == second.classes == CLASSES
    written = [*parts[0], *parts[1], *parts[2]]
    assert_read(pickle.loads(pickle.dumps(first)), written, what)
    assert_read(second, parts[3], what)
    assert [labels_of(first, at).tolist() for at in range(9)] == [  # type: ignore[union-attr]
        [thing.label for thing in picture.things] for picture in written
    ]
    assert first[5][1]["iscrowd"].tolist() == [thing.crowd for thing in written[5].things]
    some, nothing = read_examples(f"webdataset:{tmp_path}/train-{{0001..0002}}.tar", Wanted(what))
    assert nothing is None
    assert_read(some, written[3:], what)
    assert len(read_examples(f"webdataset:{tmp_path}/*-0000.tar", Wanted(what))[0]) == 6


def test_shards_of_label_maps_are_read(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    images, maps = random.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8), random.integers(0, 4, (3, 6, 8))
    files = {}
    for number in range(3):
        files[f"{number}.jpg" if number else "0.png"] = png(images[number])
        files[f"{number}.seg.png"] = png(maps[number].astype(np.uint8))
    shard(tmp_path / "train.tar", files)
    (tmp_path / "classes.txt").write_text("void\nroad\ncar\nsky\n")
    examples, _ = read_examples(f"webdataset:{tmp_path}", Wanted("map"))
    assert examples.classes == ("road", "car", "sky")
    for index in range(3):
        image, target = examples[index]
        assert_form(image, target, "map")
        assert np.array_equal(np.asarray(target["map"]), np.where(maps[index] == 0, 255, maps[index] - 1))


def test_incomplete_samples_and_damaged_shards_are_named(tmp_path: Path) -> None:
    files = samples(pictures(1, count=3))
    del files["x/001.json"]
    shard(tmp_path / "train.tar", files)
    text = f"webdataset:{tmp_path}"
    with pytest.raises(DataError, match=r"there is no classes.txt beside them"):
        read_examples(text, Wanted())
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"1 samples have no image, or none of json, such as train.tar: x/001"):
        read_examples(text, Wanted(broken="stop"))
    examples, _ = read_examples(text, Wanted())
    assert len(examples) == 2
    assert "1 samples have no image" in notes_of(examples)[0]
    files["x/000.json"] = b'{"boxes": [[0, 0, 1, 1]], "labels": ["cow"]}'
    files["x/002.json"] = b"[" * 100
    shard(tmp_path / "train.tar", files)
    examples, _ = read_examples(text, Wanted())
    with pytest.raises(DataError, match=r"train.tar: x/000: the class 'cow' is unknown"):
        examples[0]
    with pytest.raises(DataError, match=r"train.tar: x/002: its JSON cannot be read"):
        examples[1]
    shard(tmp_path / "train.tar", files, "w:gz")
    with pytest.raises(DataError, match="a shard is an uncompressed tar file"):
        read_examples(text, Wanted())
    (tmp_path / "train.tar").unlink()
    with pytest.raises(DataError, match=r"there are no shards train\*.tar in it"):
        read_examples(text, Wanted())
    for pattern, said in (("train-{0..3}.tar", "there is no .*train-0.tar"), ("*.tar", "there is no such file"),
                          ("{0..999999}.tar", "a range has 1 to"), ("{3..2}.tar", "a range has 1 to")):  # fmt: skip
        with pytest.raises(DataError, match=said):
            read_examples(f"{text}/{pattern}", Wanted())


def saved(folder: Path, parts: dict[str, list[Picture]], form: str = "xywh") -> str:
    """A data set of Hugging Face's library on the disk, in the form that its detection data sets have."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    number = datasets.Value("float32")
    features = datasets.Features(
        {
            "image_id": datasets.Value("int64"),
            "image": datasets.Image(),
            "width": datasets.Value("int32"),
            "height": datasets.Value("int32"),
            "objects": {
                "bbox": datasets.List(datasets.List(number, length=4)),
                "category": datasets.List(datasets.ClassLabel(names=list(CLASSES))),
                "iscrowd": datasets.List(datasets.Value("bool")),
                "keypoints": datasets.List(datasets.List(datasets.List(number))),
            },
        }
    )

    def row(index: int, picture: Picture) -> dict[str, Any]:
        boxes = [
            (left, top, right - left, bottom - top) if form == "xywh" else (left, top, right, bottom)
            for left, top, right, bottom in (thing.box for thing in picture.things)
        ]
        objects = {
            "bbox": boxes,
            "category": [thing.label for thing in picture.things],
            "iscrowd": [thing.crowd for thing in picture.things],
            "keypoints": [thing.points.tolist() for thing in picture.things],
        }
        height, width = picture.size
        image = {"bytes": png(picture.pixels), "path": None}
        return {"image_id": 50 + index, "image": image, "width": width, "height": height, "objects": objects}

    splits = {
        name: datasets.Dataset.from_list([row(index, each) for index, each in enumerate(written)], features=features)
        for name, written in parts.items()
    }
    datasets.DatasetDict(splits).save_to_disk(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("what", ["boxes", "keypoints"])
def test_hugging_face_data_sets_on_the_disk_are_read(tmp_path: Path, what: Any) -> None:
    train, val = pictures(1), pictures(2)
    first, second = read_examples(saved(tmp_path / "a", {"train": train, "validation": val}), Wanted(what))
    assert second is not None
    assert first.classes == second.classes == CLASSES
    assert_read(pickle.loads(pickle.dumps(first)), train, what)
    assert_read(second, val, what)
    assert sizes_of(first).tolist() == [list(each.size) for each in train]
    assert labels_of(first, 2).tolist() == [thing.label for thing in train[2].things]  # type: ignore[union-attr]
    assert (first[3][1]["image_id"], first[3][1]["iscrowd"].tolist()) == (53, [t.crowd for t in train[3].things])


def test_options_name_splits_and_the_form_of_boxes(tmp_path: Path) -> None:
    train, val = pictures(1), pictures(2)
    text = saved(tmp_path / "a", {"mine": train, "other": val}, "xyxy")
    with pytest.raises(DataError, match=r"has no split 'train', only mine, other; name others"):
        read_examples(text, Wanted())
    first, second = read_examples(f"{text}?train=mine&val=other&boxes=xyxy", Wanted())
    assert second is not None
    assert_read(first, train)
    assert_read(second, val)
    for option, said in (
        ("size=3", "there is no option 'size', only config"),
        ("train=mine&boxes=yxyx", "boxes is xywh, xyxy or cxcywh"),
        ("train=mine&image=width", r"it has no column 'width' of images, only image_id \(Value\)"),
        ("train=mine&objects=things", "it has no column 'things' with bbox, category"),
    ):
        with pytest.raises(DataError, match=said):
            read_examples(f"{text}?{option}", Wanted())
    with pytest.raises(
        DataError, match=r"it has no column 'objects' with bbox, category, segmentation, .*&segmentation="
    ):
        read_examples(f"{text}?train=mine", Wanted("masks"))
    with pytest.raises(DataError, match="no column of label maps"):
        read_examples(f"{text}?train=mine", Wanted("map"))


def codes(mask: Any) -> list[int]:
    """Uncompressed run-length codes, column by column, from 0 on."""
    flat = [0, *mask.T.reshape(-1).tolist()]
    ends = [at for at in range(1, len(flat)) if flat[at] != flat[at - 1]]
    return [int(each) for each in np.diff([1, *ends, len(flat)])]


def compressed(mask: Any) -> str:
    from faster_coco_eval.core import mask as library

    return library.encode(np.asfortranarray(mask))["counts"].decode()  # type: ignore[no-any-return]


def with_masks(folder: Path, written: list[Picture], form: str, name: str = "segmentation") -> str:
    """A data set on the disk whose masks are of a form."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    number, size = datasets.Value("float64"), datasets.List(datasets.Value("int32"))
    counts = {"rle": datasets.List(datasets.Value("int64")), "compressed": datasets.Value("string")}
    features = {
        "polygons": lambda: datasets.List(datasets.List(number)),
        "polygon": lambda: datasets.List(number),
        "points": lambda: datasets.List(datasets.List(number)),
        "images": lambda: datasets.Image(),
    }

    def stored(mask: Any, polygon: list[float]) -> Any:
        code = {"size": list(mask.shape), "counts": (codes if form == "rle" else compressed)(mask)}
        return {
            "polygons": [polygon], "polygon": polygon, "points": np.reshape(polygon, (-1, 2)).tolist(),
            "images": {"bytes": png(mask * 255), "path": None}, "rle": code, "compressed": code,
        }[form]  # fmt: skip

    masks = datasets.List(features[form]() if form in features else {"size": size, "counts": counts[form]})
    things = {"bbox": datasets.List(datasets.List(number, length=4)),
              "category": datasets.List(datasets.ClassLabel(names=list(CLASSES))), name: masks}  # fmt: skip
    rows = [
        {"image": {"bytes": png(each.pixels), "path": None}, "objects": {
            "bbox": [(t.box[0], t.box[1], t.box[2] - t.box[0], t.box[3] - t.box[1]) for t in each.things],
            "category": [thing.label for thing in each.things],
            name: [stored(thing.mask(*each.size), thing.polygon) for thing in each.things],
        }} for each in written
    ]  # fmt: skip
    table = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image(), "objects": things}))
    table.save_to_disk(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("form", ["polygons", "polygon", "points", "rle", "compressed", "images"])
def test_masks_of_hugging_face_are_read(tmp_path: Path, form: str) -> None:
    pytest.importorskip("faster_coco_eval")
    written = pictures(3)
    examples, _ = read_examples(with_masks(tmp_path / "a", written, form), Wanted("masks"))
    assert_read(pickle.loads(pickle.dumps(examples)), written, "masks")
    named = with_masks(tmp_path / "b", written, form, "shape")
    assert_read(read_examples(f"{named}?segmentation=shape", Wanted("masks"))[0], written, "masks")
    assert_read(read_examples(named, Wanted())[0], written)


@pytest.mark.parametrize(("form", "said"), [
    ("images", r"item 1: the mask of its object 0 cannot be read: it has \d+x\d+ pixels, but its image has \d+x\d+"),
    ("rle", r"item 1: the mask of its object 0 cannot be read: it has \d+x\d+ pixels, but its image has"),
    ("polygons", "item 1: the mask of its object 0 cannot be read: it has no polygon of three points"),
    ("compressed", "item 1: the mask of its object 0 cannot be read: "),
])  # fmt: skip
def test_wrong_masks_of_hugging_face_are_told(
    tmp_path: Path, form: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faster_coco_eval")
    if form == "polygons":
        monkeypatch.setattr(Thing, "polygon", [1.0, 2.0, 3.0, 4.0])
    elif form == "compressed":
        monkeypatch.setattr("tests.tasks.test_shards.compressed", lambda mask: "zzzz")
    else:
        monkeypatch.setattr(Thing, "mask", lambda thing, height, width: np.ones((height + 1, width), np.uint8))
    examples, _ = read_examples(with_masks(tmp_path / "a", pictures(3), form), Wanted("masks"))
    examples[0]
    with pytest.raises(DataError, match=said):
        examples[1]


def test_label_maps_of_hugging_face_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    random = np.random.default_rng(2)
    images, maps = random.integers(0, 256, (2, 6, 8, 3), dtype=np.uint8), random.integers(0, 3, (2, 6, 8))
    rows = [
        {
            "image": {"bytes": png(image), "path": None},
            "annotation": {"bytes": png(each.astype(np.uint8)), "path": None},
        }
        for image, each in zip(images, maps, strict=True)
    ]
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "a")
    with pytest.raises(DataError, match="nothing names the classes"):
        read_examples(f"hf:{tmp_path / 'a'}", Wanted("map"))
    (tmp_path / "names.txt").write_text("(ignore)\na\nb\n")
    examples, second = read_examples(f"hf:{tmp_path / 'a'}?classes={tmp_path / 'names.txt'}", Wanted("map"))
    assert (second, examples.classes) == (None, ("a", "b"))
    for index in range(2):
        image, target = examples[index]
        assert_form(image, target, "map")
        assert np.array_equal(np.asarray(target["map"]), np.where(maps[index] == 0, 255, maps[index] - 1))


def test_what_is_no_data_set_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"Hugging Face data set .* cannot be read: "):
        read_examples(f"hf:{tmp_path}", Wanted())
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(EdakariError, match=r'pip install "edakari\[huggingface\]"'):
        read_examples(f"hf:{tmp_path}", Wanted())
