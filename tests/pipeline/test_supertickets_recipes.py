"""The recipes of SuperTickets hold for data as it is distributed: a few synthetic images in each format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edakari.pipeline import recipe_from
from edakari.pipeline.checking import check_recipe
from edakari.tasks import task_from_settings
from tests.tasks.scenes import Scene, ade20k, cityscapes, pairs, save, scenes

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> Any:
    return RNG.integers(0, 256, (height, width, 3))


def imagenet(root: Path) -> str:
    for split in ("train", "val"):
        for number in range(3):
            for name in ("cat", "dog"):
                save(root / split / name / f"{number}.png", picture(50, 40))
    return str(root)


def camvid(root: Path, train: list[Scene], val: list[Scene]) -> str:
    for split, written in (("train", train), ("val", val)):
        pairs(root, split, written, lambda labels: labels)
    (root / "classes.txt").write_text("".join(f"class {number}\n" for number in range(11)))
    return f"camvid:{root}"


def maps(write: Any, classes: int, size: tuple[int, int]) -> Any:
    """A function that writes scenes of one size in a format."""
    return lambda root: write(root, scenes(1, classes, size=size), scenes(2, classes, size=size))


def coco(root: Path) -> str:
    names = [f"joint {number}" for number in range(17)]
    category = {"id": 1, "name": "person", "keypoints": names, "skeleton": []}
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        images, annotations = [], []
        for number in range(3):
            save(root / f"{split}2017" / f"{number}.jpg", picture(60, 80))
            images.append({"id": number, "file_name": f"{number}.jpg", "height": 60, "width": 80})
            points = np.stack([RNG.uniform(10, 60, 17), RNG.uniform(10, 50, 17), np.full(17, 2)], 1)
            box = [8, 8, 55, 45]
            annotations.append(
                {"id": number + 1, "image_id": number, "category_id": 1, "bbox": box, "area": 2000, "iscrowd": 0}
                | {"keypoints": points.flatten().tolist(), "num_keypoints": 17}
            )
        content = {"images": images, "annotations": annotations, "categories": [category]}
        (root / f"annotations/person_keypoints_{split}2017.json").write_text(json.dumps(content))
    return f"coco:{root}"


RECIPES = [
    ("imagenet", imagenet, {"image_size": 80}, {"num_classes": 2}, (80, 80)),
    ("cityscapes", maps(cityscapes, 19, (64, 128)), {"image_size": (32, 64)}, {}, (64, 128)),
    ("ade20k", maps(ade20k, 150, (60, 80)), {"image_size": (32, 32)}, {}, (64, 256)),
    ("coco_pose", coco, {"image_size": (64, 48)}, {}, (64, 48)),
    ("camvid", maps(camvid, 11, (36, 48)), {"image_size": (32, 32)}, {}, (36, 48)),
    ("coco_mini_pose", coco, {"image_size": (64, 48)}, {}, (64, 48)),
]


@pytest.mark.parametrize(("name", "write", "data", "options", "evaluated"), RECIPES, ids=[each[0] for each in RECIPES])
def test_a_recipe_of_supertickets_passes_its_check(
    name: str, write: Any, data: Any, options: Any, evaluated: Any, tmp_path: Path
) -> None:
    pytest.importorskip("faster_coco_eval")
    asked: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / f"{name}_supertickets.yaml").read_text())
    asked["data"] |= {"source": write(tmp_path), "batch_size": 2, "workers": 0, **data}
    asked["model"]["options"] |= {"preset": "tiny", **options}
    if "base_size" in asked["data"]["task"]:
        asked["data"]["task"]["base_size"] = evaluated
    recipe = recipe_from({**asked, "device": "cpu"})
    checked = check_recipe(recipe)
    assert checked.costs["macs"] > 0
    task = task_from_settings(recipe.data)
    assert next(iter(task.batches("val")))[0].shape[2:] == evaluated
    assert next(iter(task.batches("train")))[0].shape[2:] == task.example().shape[2:]
