"""Numbers of images: figures by numpy, all forms of the data, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edakari.errors import DataError, UnknownName
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.regression import RegressionSettings
from edakari.train import distillation

OWN = """
import numpy as np, torch

class Numbers:
    names = ("x", "y")
    def __init__(self, count, form):
        self.count, self.form, self.read = count, form, []
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        self.read.append(index)
        image = np.full((6, 6, 3), 10 * index, np.uint8)
        grey, tensor = image[:, :, 0], torch.from_numpy(image).permute(2, 0, 1)
        forms = {"array": image, "tensor": tensor, "grey": grey, "float": tensor / 255, "far": 2.0 + grey / 255}
        return forms.get(self.form), (index, 0.5)

class Known(Numbers):
    @property
    def targets(self):
        return [[index, 0.5] for index in range(self.count)]

def array(): return Numbers(8, "array"), Known(3, "tensor")
def tensor(): return Known(8, "tensor")
def floats(): return Numbers(8, "float")
def grey(): return Numbers(8, "grey")
def none(): return Numbers(8, "none")
def far(): return Numbers(8, "far")
def empty(): return Numbers(0, "array")
def texts(): return [(np.zeros((4, 4), np.uint8), "old")] * 4
def single(): return [np.zeros((4, 4), np.uint8)] * 4
def stream(): return iter([1])
"""


def npz(path: Path, labels: Any, size: int = 6) -> str:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), size, size, 1), dtype=np.uint8)
    np.savez(path, images=images, labels=labels)
    return str(path)


def tasked(options: Any = "regression", **more: Any) -> Any:
    return task_from_settings(
        DataSettings(**{"task": options, "batch_size": 5, "workers": 0, "augment": "none", "val_share": 0.3, **more})
    )


class Fixed(nn.Module):
    """Gives these numbers, batch after batch."""

    def __init__(self, numbers: torch.Tensor) -> None:
        super().__init__()
        self.numbers, self.at = numbers, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.at += len(images)
        return self.numbers[self.at - len(images) : self.at]


@pytest.mark.parametrize("numbers", [1, 3])
@pytest.mark.parametrize("metric", ["r2", "minus_mae", "minus_rmse"])
def test_figures_by_numpy(tmp_path: Path, numbers: int, metric: str) -> None:
    rng = np.random.default_rng(0)
    aims = 1000 + rng.normal(size=(13, numbers))
    found = (aims + 0.5 * rng.normal(size=aims.shape)).astype(np.float32)
    path = npz(tmp_path / "v.npz", aims[:, 0] if numbers == 1 else aims)
    task = tasked(train=(path,), val=path, metric=metric)
    figures = task.evaluate(Fixed(torch.from_numpy(found[:, 0] if numbers == 1 else found)))
    errors, seen = found - aims.astype(np.float32).astype(np.float64), aims.astype(np.float32).astype(np.float64)
    spread = ((seen - seen.mean(0)) ** 2).sum(0)
    expected = {
        "r2": float((1 - (errors**2).sum(0) / spread).mean()),
        "mae": float(np.abs(errors).mean()),
        "rmse": float((errors**2).mean() ** 0.5),
        "loss": float((errors**2).mean()),
    }
    if metric != "r2":
        expected[metric] = -expected[metric.removeprefix("minus_")]
    assert task.metric == metric
    assert figures == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "expected"), [("l1", (0.5 + 3) / 2), ("mse", (0.25 + 9) / 2), ("huber", (0.125 + 2 * (3 - 1)) / 2)]
)
def test_losses_by_hand(tmp_path: Path, loss: Any, expected: float) -> None:
    task = tasked(RegressionSettings(loss=loss, delta=2.0), source=npz(tmp_path / "d.npz", np.arange(9.0)))
    outputs, batch = torch.tensor([[1.5], [5.0]]), (torch.zeros(2, 1, 6, 6), torch.tensor([[1.0], [2.0]]))
    assert {name: float(value) for name, value in task.loss(outputs, batch).items()} == {loss: pytest.approx(expected)}
    objective = distillation(task, Fixed(torch.tensor([1.0, 2.0])), weight=1.0)
    student = Fixed(torch.tensor([2.0, 4.0], requires_grad=True))
    assert objective(student, batch)["distillation"].item() == pytest.approx(2.5)


def test_tables_name_files_beside_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index in range(6):
        Image.new("RGB", (8, 8), (40 * index,) * 3).save(tmp_path / "images" / f"{index}.png")
    rows = [f"images/{index}.png,{index},{index / 2}" for index in range(6)]
    (tmp_path / "train.csv").write_text("\n".join(["file,age,weight", *rows]), encoding="utf-8")
    (tmp_path / "val.csv").write_text("\n".join(rows[:4]), encoding="utf-8")
    for where in ({"source": str(tmp_path)}, {"train": (str(tmp_path / "train.csv"),), "val": f"{tmp_path}/val.csv"}):
        task = tasked(**where, image_size=8)
        assert task.names == ("age", "weight")
        found = torch.cat([targets for _, targets in task.batches("val")])
        assert found.tolist() == [[index, index / 2] for index in range(4)]
        images, numbers = next(iter(task.batches("train")))
        assert numbers.dtype == torch.float32
        shown = task.pictures(images)[:, 0, 4, 4] * 255 / 40
        assert torch.allclose(shown, numbers[:, 0], atol=0.01)


@pytest.mark.parametrize("name", ["array", "tensor", "floats", "grey"])
def test_data_sets_of_ones_own(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    task = tasked(source=f"{tmp_path}/own.py:{name}", image_size=6)
    assert task.names == ("x", "y")
    assert task.example().shape == (1, 1 if name == "grey" else 3, 6, 6)
    for split in ("train", "val", "calibration"):
        for images, numbers in task.batches(split):
            assert torch.allclose(task.pictures(images)[:, 0, 3, 3] * 25.5, numbers[:, 0], atol=0.01)
    if name == "tensor":  # told by `targets`, so no image was read for its numbers
        assert set(tasked(source=f"{tmp_path}/own.py:tensor", image_size=6).data.source("train").dataset.read) == {0}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "item 0: expected a PIL image"),
        ("far", r"float pixels lie from 0 to 1, found 2\.0"),
        ("empty", "it is empty"),
        ("texts", r"item 0: expected \(image, a number or a list of numbers\), found 'old'"),
        ("single", "item 0: expected a pair"),
        ("stream", "map-style data set is needed"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_told(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        tasked(source=f"{tmp_path}/own.py:{name}", image_size=6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no images"),
        ("file,age\n", "has no images"),
        ("a.png\nb.png", r"a line is a file and 1 numbers|has no images"),
        ("a.png,1\nb.png,old", r"line 2: a line is a file and 1 numbers, found \['b.png', 'old'\]"),
        ("a.png,1\nb.png,1,2", "line 2: a line is a file and 1 numbers"),
        ("a.png,1\nb.png,2", "2 of 2 images are missing; the first is"),
        ("own.py,nan\nown.py,2", "not finite in float32; the first is image 0"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "own.py").write_text("", encoding="utf-8")
    (tmp_path / "train.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        tasked(source=str(tmp_path))


def test_wrong_numbers_and_networks_are_told(tmp_path: Path) -> None:
    one, two = npz(tmp_path / "one.npz", np.arange(9.0)), npz(tmp_path / "two.npz", np.ones((9, 2)))
    with pytest.raises(DataError, match=r"`labels` must be numbers, \[9\] or \[9, K\], .* found float64 \[9, 2, 2\]"):
        tasked(source=npz(tmp_path / "cube.npz", np.ones((9, 2, 2))))
    with pytest.raises(DataError, match="`labels` of 1 images are not finite"):
        tasked(source=npz(tmp_path / "nan.npz", np.array([1.0, np.nan, 2.0])))
    with pytest.raises(DataError, match=r"1 numbers for each image \(value\), the validation data 2"):
        tasked(train=(one,), val=two)
    with pytest.raises(DataError, match=r"reads \.npz files"):
        tasked(train=("numbers.json",))
    with pytest.raises(DataError, match=r"needs data\.source or data\.train"):
        tasked()
    with pytest.raises(UnknownName, match="r2"):
        tasked(train=(one,), metric="accuracy")
    with pytest.raises(DataError, match=r"the network gives \[5, 3\] .* 1 numbers for each \(value\), \[5, 1\]"):
        tasked(train=(one,), val=one).evaluate(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
