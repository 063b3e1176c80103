"""Equal seeds give equal batches, whatever reads them: any number of workers, one or two processes, or a device."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edakari.core.processes import Processes
from edakari.errors import DataError, SettingsError
from edakari.tasks import DataSettings, task_from_datasets, task_from_settings
from edakari.tasks.image_data import image_data
from edakari.tasks.sources import Arrays
from tests.tasks.random_objects import pictures
from tests.tasks.test_own_data import as_tv_tensors

COUNT = 8


class Images:
    """Images of different sizes, which the data set itself changes at random, and what they show."""

    def __init__(self, task: str) -> None:
        self.task, self.pictures = task, pictures(3, COUNT, joints=4)
        self.classes = ["a", "b"] if task in ("classification", "embedding") else ["cat", "dog", "bird"]
        self.joints = [f"p{number}" for number in range(4)]
        self.targets = [index % 2 for index in range(COUNT)]

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        image, target = as_tv_tensors(self.pictures[index])
        image = image + torch.randint(2, (), dtype=torch.uint8) + np.random.randint(2)
        size = image.shape[-2:]
        shown = {
            "classification": index % 2,
            "embedding": index % 2,
            "regression": float(index),
            "segmentation": torch.full(size, index % 3),
            "depth": torch.full(size, 1.0 + index),
            "super_resolution": {},
        }
        image = torch.as_tensor(image).as_subclass(torch.Tensor).clamp(0, 255).to(torch.uint8)
        if self.task == "super_resolution":
            image = image.repeat_interleave(4, 1).repeat_interleave(4, 2)
        return image, shown.get(self.task, target)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """All numbers of a batch, in order."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)
    else:
        yield torch.as_tensor(value).as_subclass(torch.Tensor).double().reshape(-1)


def passed(task: Any, monkeypatch: pytest.MonkeyPatch, world: int = 1) -> list[torch.Tensor]:
    """Images and targets of two epochs, in the order of one process."""
    found: list[list[torch.Tensor]] = []
    for rank in range(world):
        monkeypatch.setattr(Processes, "here", lambda rank=rank: Processes(rank, world))
        batches, own = task.batches("train"), []
        for epoch in (3, 1):
            batches.set_epoch(epoch)
            own += [torch.cat(list(tensors(part))) for batch in batches for part in batch]
        found.append(own)
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def made(task: str, augment: str, workers: int, size: int = 72, **asked: Any) -> Any:
    given = {"image_size": (size, size + 8), "batch_size": 4, "drop_last": True, "seed": 1, "channels": 3, **asked}
    given |= {"image_size": 16} if task == "super_resolution" else {}
    named = {"name": task, "images_per_class": 2} if task == "embedding" else task
    return task_from_datasets(named, Images(task), Images(task), augment=augment, workers=workers, **given)


def assert_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second) > 0
    assert all(map(torch.equal, first, second))


TASKS = [
    ("classification", "light"),
    ("classification", "jitter"),
    ("classification", "timm"),
    ("embedding", "jitter"),
    ("regression", "jitter"),
    ("segmentation", "jitter"),
    ("depth", "light"),
    ("detection", "jitter"),
    ("instance_segmentation", "light"),
    ("keypoints", "jitter"),
    ("pose", "jitter"),
    ("super_resolution", "light"),
]


@pytest.mark.parametrize(("task", "augment"), TASKS)
def test_workers_and_processes_do_not_change_batches(task: str, augment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if task in ("detection", "instance_segmentation", "keypoints", "pose"):
        pytest.importorskip("faster_coco_eval")
    alone = passed(made(task, augment, 0), monkeypatch)
    torch.manual_seed(4)
    assert_equal(passed(made(task, augment, 0), monkeypatch), alone)
    assert_equal(passed(made(task, augment, 2), monkeypatch), alone)
    assert_equal(passed(made(task, augment, 0), monkeypatch, world=2), alone)
    other = passed(made(task, augment, 0, seed=2), monkeypatch)
    assert not all(one.shape == two.shape and torch.equal(one, two) for one, two in zip(alone, other, strict=False))


@pytest.mark.parametrize("augment", ["light", "jitter"])
@pytest.mark.parametrize("views", [0, 2])
def test_processes_do_not_change_images_in_memory(views: int, augment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3), dtype=np.uint8)
    source = Arrays(images, np.arange(12) % 3, ("a", "b", "c"))
    data = image_data(DataSettings(batch_size=4, augment=augment), source, source, seed=5)  # type: ignore[arg-type]
    found: dict[int, dict[int, list[bytes]]] = {}
    for world in (1, 2):
        found[world] = {}
        for rank in range(world):
            monkeypatch.setattr(Processes, "here", lambda rank=rank, world=world: Processes(rank, world))
            batches = data.with_indices(max(1, views))
            batches.set_epoch(2)
            for made_of, _, numbers in batches:
                for image, number in zip(made_of, numbers.tolist(), strict=True):
                    found[world].setdefault(number, []).append(image.numpy().tobytes())
    assert found[1] == found[2]
    assert len(found[1]) == 12
    assert {len(set(each)) for each in found[1].values()} == {max(1, views)}


def photographs(folder: Path) -> str:
    """Images of several sizes and kinds: colour, grey, and grey of 16 bits."""
    random = np.random.default_rng(0)
    for number in range(8):
        size = (60 + 7 * number, 90 - 3 * number)
        grey = random.integers(0, 65536, size).astype(np.uint16)
        colour = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        image = {0: grey, 1: (grey >> 8).astype(np.uint8)}.get(number % 4, colour)
        (folder / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        path = folder / f"class{number % 2}" / f"{number}.{'jpg' if number % 4 == 2 else 'png'}"
        Image.fromarray(image).save(path)
    return str(folder)


@pytest.mark.parametrize("size", [32, 72])
@pytest.mark.parametrize("augment", ["none", "light", "jitter"])
def test_transforms_on_a_device_give_the_images_of_workers(
    augment: Any, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"source": photographs(tmp_path), "val": str(tmp_path), "image_size": size, "batch_size": 4}
    asked = DataSettings(**where, augment=augment, workers=0)  # type: ignore[arg-type]
    usual = task_from_settings(asked, 3).data  # type: ignore[attr-defined]
    there = task_from_settings(dc.replace(asked, device="auto", transforms="device"), 3).data  # type: ignore[attr-defined]
    monkeypatch.setattr("edakari.tasks.image_data.gpu_of", lambda settings: torch.device("cpu"))
    usual.workers.pin = there.workers.pin = False
    for batches, others in (
        (usual.batches("train"), there.batches("train")),
        (usual.batches("val"), there.batches("val")),
        (usual.with_indices(2), there.with_indices(2)),
    ):
        assert (batches.reading.decode_only, others.reading.decode_only) == (False, True)
        for batch, other in zip(batches, others, strict=True):
            assert all(map(torch.equal, batch, other))
    assert not there.batches("calibration").reading.decode_only


def test_what_cannot_be_transformed_on_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="transforms is 'device', but device is 'cpu'; set device to 'auto'"):
        DataSettings(transforms="device")
    with pytest.raises(SettingsError, match="but augment is 'timm'"):
        DataSettings(transforms="device", device="auto", augment="timm")
    with pytest.raises(DataError, match=r'"device" is for images with a class or numbers; .* detection'):
        made("detection", "light", 0, device="auto", transforms="device")
    data = made("classification", "light", 0, device="auto", transforms="device").data
    assert data.batches("train").reading.decode_only == torch.cuda.is_available()
