"""Map-style data sets of a program as they are: which are read, and what is said of the others."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import edakari
from edakari.core.protocols import IndexedTask
from edakari.errors import DataError, SettingsError
from edakari.tasks import DataSettings, task_from_datasets, task_from_settings
from edakari.tasks.splits import IMAGENET

SIDE = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (20, SIDE, SIDE, 3), dtype=np.uint8)


@dc.dataclass
class Labelled:
    """Twenty images; the label of each is its index modulo 4."""

    kind: str = "pil"
    stored: bool = False
    read: int = 0

    def __post_init__(self) -> None:
        self.classes = ["a", "b", "c", "d"]
        if self.stored:
            self.targets = torch.arange(20) % 4

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        made = {"pil": Image.fromarray, "array": np.asarray, "tensor": lambda x: torch.from_numpy(x).permute(2, 0, 1)}
        return made[self.kind](PIXELS[index]), torch.tensor(index % 4) if self.kind == "tensor" else index % 4


@pytest.mark.parametrize("kind", ["pil", "array", "tensor"])
def test_every_form_of_an_image_is_the_same_image(kind: str) -> None:
    given = {"image_size": SIDE, "batch_size": 8, "workers": 0, "mean": (0.0,), "std": (1.0,)}
    task: Any = task_from_datasets("classification", Labelled(kind), Labelled(kind), **given)
    assert isinstance(task, IndexedTask)
    images = torch.cat([images for images, _ in task.batches("val")])
    torch.testing.assert_close(images, torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255, atol=1e-6, rtol=0)
    assert task.labels("val").tolist() == [index % 4 for index in range(20)]
    assert task.classes == ("a", "b", "c", "d")
    assert task.digest() == task_from_datasets("classification", Labelled(), Labelled(), **given).digest()  # type: ignore[attr-defined]


def test_stored_labels_are_not_read_from_images() -> None:
    dataset = Labelled(stored=True)
    task: Any = task_from_datasets("classification", dataset, val=None, image_size=SIDE, val_share=0.25)
    assert dataset.read == 1
    assert {split: len(task.labels(split)) for split in ("train", "val")} == {"train": 15, "val": 5}


def test_the_function_of_a_file_may_give_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "from tests.tasks.test_datasets import Labelled\n"
    Path("one.py").write_text(
        text + "def one():\n    return Labelled()\ndef two(text):\n    return Labelled(), Labelled()\n"
    )
    for name, val in (("one", 2), ("two", 20)):
        task: Any = task_from_settings(DataSettings(source=f"one.py:{name}", image_size=SIDE, workers=0))
        assert len(task.labels("val")) == val
        assert next(iter(task.batches("val")))[0].shape[1:] == (3, SIDE, SIDE)


def test_annotated_data_sets_make_tasks_too() -> None:
    pytest.importorskip("faster_coco_eval")

    class Boxed:
        classes = ("thing",)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            box = [[2.0 + index, 3, 8 + index, 9]]
            return Image.fromarray(PIXELS[index]), {"boxes": torch.tensor(box), "labels": torch.tensor([0])}

    task = task_from_datasets("detection", Boxed(), Boxed(), image_size=(24, 12), batch_size=2, workers=0)
    images, targets = next(iter(task.batches("val")))
    assert images.shape == (2, 3, 24, 12)
    assert torch.as_tensor(targets[1]["boxes"]).tolist() == [[3.0, 6.0, 9.0, 18.0]]


def test_a_network_is_pruned_on_a_data_set() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    task = edakari.tasks.task_from_datasets("classification", Labelled(), Labelled(), image_size=SIDE, workers=0)
    result = edakari.prune(model, task, "macs<=60%", method="taylor")
    assert 0 <= result.report["networks"][-1]["metrics"]["top1"] <= 1


class Broken(Labelled):
    def __init__(self, item: Any, **more: Any) -> None:
        super().__init__()
        self.item = item
        for name, value in more.items():
            setattr(self, name, value)

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


IMAGE = Image.fromarray(PIXELS[0])


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (iter([1, 2]), "the training data: a map-style data set is needed, with a length and items by index, found"),
        ([], "found list of length 0"),
        (Broken(lambda index: IMAGE), r"item 0: expected a pair \(image, number of its class\), found"),
        (Broken(lambda index: (IMAGE, 1, 2)), "item 0: expected a pair .* found"),
        (Broken(lambda index: (torch.rand(3, 4, 4) * 9, 1)), "float pixels lie from 0 to 1"),
        (Broken(lambda index: (IMAGE, "cat")), "a label is the number of a class, found ValueError"),
        (Broken(lambda index: (IMAGE, index)), "labels range over 0 to 19, but there are 4 classes"),
        (Broken(lambda index: (IMAGE, 1)), "all 20 labels are 1; there is only one class"),
        (Broken(lambda index: 1 / 0), "item 0 cannot be read: ZeroDivisionError"),
    ],
)
def test_other_data_sets_are_refused(dataset: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        task_from_datasets("classification", dataset)


def test_settings_have_to_be_known() -> None:
    with pytest.raises(SettingsError, match="there is no setting 'size', only image_size"):
        task_from_datasets("classification", Labelled(), size=3)
    other = Labelled()
    other.classes = ["a", "b", "c", "e"]
    with pytest.raises(DataError, match="the validation data: it has other classes than the training data"):
        task_from_datasets("classification", Labelled(), other)


@dc.dataclass
class Sized:
    """Images of given sides, with two labels."""

    sides: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, index: int) -> Any:
        side = self.sides[index]
        return Image.fromarray(np.full((side, side + 2, 3), 90, np.uint8)), index % 2


@pytest.mark.parametrize(
    ("sides", "expected"), [((12,) * 50, (12, 14)), ((222,) * 6, (222, 224)), ((230,) * 6, None), ((12, 40) * 9, None)]
)
def test_small_images_of_one_size_keep_it(sides: tuple[int, ...], expected: tuple[int, int] | None) -> None:
    given: Any = {"batch_size": 2, "workers": 0, "augment": "none", "calibration_size": 4}
    task: Any = task_from_datasets("classification", Sized(sides), Sized(sides), **given)
    height, width = expected or (224, 224)
    assert task.example().shape == (1, 3, height, width)
    images, _ = next(iter(task.batches("val")))
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    plain = ((90 / 255 - mean) / std).expand(2, 3, height, width)
    torch.testing.assert_close(images, plain, atol=1e-5, rtol=0)
    assert task_from_datasets("classification", Sized(sides), image_size=20, **given).example().shape[2:] == (20, 20)
