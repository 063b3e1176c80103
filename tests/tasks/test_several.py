"""Several classes an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edakari.errors import DataError, UnknownName
from edakari.tasks import DataSettings, MultiLabel, task_from_settings
from edakari.train import distillation


def npz(path: Path, labels: Any = None, count: int = 40, **more: Any) -> str:
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    labels = generator.integers(0, 2, (count, 3)) if labels is None else labels
    np.savez(path, images=images, labels=labels, **more)
    return str(path)


class Fixed(nn.Module):
    """Gives these logits, batch after batch."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.at = logits, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.logits[self.at : self.at + len(images)]
        self.at += len(images)
        return found


def test_figures_by_hand(tmp_path: Path) -> None:
    labels = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 1]])
    task = task_from_settings(
        DataSettings(task="multilabel", train=(npz(tmp_path / "t.npz"),), val=npz(tmp_path / "v.npz", labels, 4))
    )
    # class 0 is ranked right; of class 1 the only one is second; of class 2 the one that is not there comes first
    logits = torch.tensor([[2.0, 9.0, 0.1], [-1.0, 3.0, 0.2], [1.0, -5.0, 0.9], [0.5, -5.0, 0.3]])
    figures = task.evaluate(Fixed(logits))
    third = (1 / 2 + 2 / 3 + 3 / 4) / 3
    assert figures["map"] == pytest.approx((1 + 1 / 2 + third) / 3)
    signs = torch.from_numpy(2.0 * labels - 1)
    assert figures["loss"] == pytest.approx(float(torch.nn.functional.softplus(-signs * logits).mean()), rel=1e-5)
    assert task.metric == "map"


def test_shares_are_those_of_all_batches_together(tmp_path: Path) -> None:
    """A batch whose logits all lie between 0 and 1 is one of logits too."""
    labels = np.array([[1, 0], [0, 1], [0, 1], [1, 0]])
    path = npz(tmp_path / "t.npz", labels, 4)
    task = task_from_settings(DataSettings(task="multilabel", source=path, val=path, batch_size=2))
    logits = torch.tensor([[0.6, 0.1], [0.2, 0.3], [-3.0, 3.0], [0.59, -3.0]])
    assert task.evaluate(Fixed(logits))["map"] == 1.0


def test_batches_keep_labels_with_their_images(tmp_path: Path) -> None:
    path = npz(tmp_path / "t.npz", class_names=np.array(["a", "b", "c"]))
    task = task_from_settings(DataSettings(task="multilabel", source=path, batch_size=8, augment="none", std=(1.0,)))
    assert isinstance(task, MultiLabel)
    assert task.classes == ("a", "b", "c")
    with np.load(path) as stored:
        known = {
            image.tobytes(): label.tolist() for image, label in zip(stored["images"], stored["labels"], strict=True)
        }
    mean = torch.tensor(task.data.pixels.mean).view(3, 1, 1)
    found = 0
    for images, labels in task.batches("train"):
        for image, label in zip(images, labels, strict=True):
            pixels = ((image + mean) * 255).round().byte().permute(1, 2, 0).numpy()
            assert known[pixels.tobytes()] == label.tolist()
            found += 1
    assert found == 36
    assert len(task.data.splits["val"].labels) == 4


def test_distillation_is_nothing_where_outputs_agree_and_treats_classes_one_by_one(tmp_path: Path) -> None:
    task = task_from_settings(DataSettings(task="multilabel", source=npz(tmp_path / "t.npz")))
    batch = next(iter(task.batches("calibration")))
    logits = torch.randn(len(batch[0]), 3)
    same = distillation(task, Fixed(logits), 1.0)(Fixed(logits.clone().requires_grad_()), batch)["distillation"]
    assert float(same.detach()) == pytest.approx(0.0, abs=1e-6)
    # a softmax would not see that all logits have grown
    grown = (logits + 3).requires_grad_()
    assert float(distillation(task, Fixed(logits), 1.0)(Fixed(grown), batch)["distillation"].detach()) > 0.5
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=logits / 2), torch.distributions.Bernoulli(logits=(logits + 3) / 2)
    )
    found = distillation(task, Fixed(logits), 1.0, 2.0)(Fixed(grown), batch)["distillation"]
    assert float(found.detach()) == pytest.approx(4 * float(wanted.sum(1).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (np.zeros(40, np.int64), r"must be 0 or 1 \[40, classes\], found int64 \[40\]"),
        (np.full((40, 3), 2), "must be 0 or 1"),
        (np.ones((40, 1), np.int64), "two or more are needed"),
        (np.ones((40, 3), np.int64), "all 40 images show the same classes"),
    ],
)
def test_labels_of_another_form_are_told(tmp_path: Path, labels: Any, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        task_from_settings(DataSettings(task="multilabel", source=npz(tmp_path / "t.npz", labels)))


def test_bad_settings_are_told(tmp_path: Path) -> None:
    path = npz(tmp_path / "t.npz")
    with pytest.raises(UnknownName, match="map"):
        task_from_settings(DataSettings(task="multilabel", source=path, metric="top1"))
    with pytest.raises(DataError, match="timm"):
        task_from_settings(DataSettings(task="multilabel", source=path, augment="timm"))
    with pytest.raises(DataError, match="needs data"):
        task_from_settings(DataSettings(task="multilabel"))
    with pytest.raises(DataError, match=r"\.npz files"):
        task_from_settings(DataSettings(task="multilabel", source=str(tmp_path)))
    with pytest.raises(DataError, match="to multilabel"):
        task_from_settings(DataSettings(source=path))
    task = task_from_settings(DataSettings(task="multilabel", source=path))
    with pytest.raises(DataError, match="num_classes=3"):
        task.outputs(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), next(iter(task.batches("val"))))
