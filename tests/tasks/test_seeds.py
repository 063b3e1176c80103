"""A task's seed draws order and augmentation of training; the data's seed draws splits and subsets."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edakari.tasks import DataSettings, ImageTask, task_from_settings


def arrays(path: Path, count: int = 48) -> str:
    images = np.random.default_rng(7).integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)
    np.savez(path, images=images, labels=(np.arange(count) % 3).astype(np.int64))
    return str(path)


def folder(path: Path) -> str:
    rng = np.random.default_rng(7)
    for split, name, count in (("train", "a", 9), ("train", "b", 7), ("val", "a", 2), ("val", "b", 2)):
        (path / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path / split / name / f"{number}.png")
    return str(path)


def epoch(task: ImageTask, number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    batches = task.batches("train")
    batches.set_epoch(number)
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_a_seed_draws_the_order_and_the_augmentation(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz")
    settings = DataSettings(train=(path,), val=path, batch_size=8, augment="none")
    plain = {seed: epoch(task_from_settings(settings, seed)) for seed in (0, 1)}
    assert not torch.equal(plain[0][1], plain[1][1])
    assert torch.equal(plain[0][0], epoch(task_from_settings(settings, 0))[0])
    moved = dc.replace(settings, augment="light")
    other = {seed: epoch(task_from_settings(moved, seed)) for seed in (0, 1)}
    assert torch.equal(other[0][1], plain[0][1])
    # of the same images in another order, by other draws
    sums = [images.sum((1, 2, 3)).sort().values for images, _ in other.values()]
    assert not torch.allclose(*sums)
    assert torch.equal(other[1][0], epoch(task_from_settings(moved, 1))[0])


@pytest.mark.parametrize("task", ["multilabel", "segmentation"])
def test_other_tasks_take_the_seed_too(task: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, (24, 3) if task == "multilabel" else (24, 8, 8)).astype(np.int64)
    path = tmp_path / "a.npz"
    np.savez(path, images=rng.integers(0, 256, (24, 8, 8, 3)).astype(np.uint8), labels=labels)
    settings = DataSettings(task=task, train=(str(path),), val=str(path), batch_size=8)  # type: ignore[arg-type]
    found = [epoch(task_from_settings(settings, seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_seed_of_the_data_leaves_training_alone_and_draws_the_splits(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz")
    settings = DataSettings(train=(path,), val=path, batch_size=8, calibration_size=12)
    tasks = [task_from_settings(dc.replace(settings, seed=seed), 3) for seed in (0, 1)]
    assert all(torch.equal(one, other) for one, other in zip(*map(epoch, tasks), strict=True))
    search = [next(iter(task.batches("calibration")))[0] for task in tasks]
    assert not torch.equal(*search)
    both = [task_from_settings(settings, seed) for seed in (0, 1)]
    assert torch.equal(*(next(iter(task.batches("calibration")))[0] for task in both))
    cut = [task_from_settings(dc.replace(settings, max_images=24, val=None), seed) for seed in (0, 1)]
    assert all(torch.equal(*(next(iter(task.batches(split)))[0] for task in cut)) for split in ("val", "calibration"))


def test_the_first_epoch_does_not_begin_with_what_the_splits_were_drawn_from(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz")
    task = task_from_settings(DataSettings(train=(path,), val=path, batch_size=48, augment="none"), 0)
    images, _ = epoch(task)
    stored = torch.from_numpy(np.load(path)["images"]).float().mean((1, 2, 3))
    drawn = np.random.default_rng(0).permutation(48)
    assert not torch.allclose(images.mean((1, 2, 3)).argsort().argsort(), stored[drawn].argsort().argsort())


def test_workers_have_no_say(tmp_path: Path) -> None:
    settings = DataSettings(source=folder(tmp_path / "images"), image_size=32, batch_size=4, workers=0)
    own = epoch(task_from_settings(settings, 1), 1)
    assert torch.equal(own[0], epoch(task_from_settings(dc.replace(settings, workers=2), 1), 1)[0])
    assert not torch.equal(own[0], epoch(task_from_settings(settings, 2), 1)[0])
    rest = task_from_settings(settings, 1).batches("train")
    rest.set_epoch(1)
    assert torch.equal(torch.cat([images for images, _ in rest.skip(2)]), own[0][8:])
