"""Workers that are started anew, as on macOS, Windows and Python 3.14: what they get must survive pickling."""

from __future__ import annotations

import io
import multiprocessing
import pickle
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from edakari.errors import DataError
from edakari.tasks import Augment, DataSettings, task_from_settings, workers
from edakari.tasks.sources.packed import Packed


def folder(path: Path, sizes: tuple[int, ...] = (40, 48, 56)) -> str:
    rng = np.random.default_rng(0)
    for name in "ab":
        (path / name).mkdir(parents=True)
        for index, size in enumerate(sizes):
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path / name / f"{index}.png")
    return str(path)


@pytest.fixture
def spawned() -> Iterator[None]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def settings(path: Path, augment: str, size: int, workers: int) -> DataSettings:
    return DataSettings(source=folder(path), image_size=size, batch_size=2, augment=augment, workers=workers)


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("augment", get_args(Augment))
def test_what_a_worker_gets_survives_pickling(
    augment: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def loader(dataset: Any, **options: Any) -> list[Any]:
        given.append({"dataset": dataset, "requests": list(options["batch_sampler"])})
        given[-1] |= {name: options[name] for name in ("worker_init_fn", "collate_fn")}
        return [dataset.__getitems__(request) for request in options["batch_sampler"]]

    monkeypatch.setattr(workers, "DataLoader", loader)
    task = task_from_settings(settings(tmp_path, augment, size, 2), 3)
    for batches in (task.batches("train"), task.batches("val"), task.with_indices(2)):
        assert len(list(batches)) == len(batches)
        task.data.workers._kept = None
    assert len(given) == 3
    for each in given:
        buffer = io.BytesIO()
        ForkingPickler(buffer).dump(each)
        there = pickle.loads(buffer.getvalue())
        for request, again in zip(each["requests"], there["requests"], strict=True):
            assert torch.equal(each["dataset"].__getitems__(request), there["dataset"].__getitems__(again))


def test_spawned_workers_read_the_same_batches(tmp_path: Path, spawned: None) -> None:
    asked = settings(tmp_path, "jitter", 32, 1)
    assert multiprocessing.get_start_method() == "spawn"
    theirs = list(task_from_settings(asked, 3).batches("train"))
    own = list(task_from_settings(settings(tmp_path / "again", "jitter", 32, 0), 3).batches("train"))
    assert len(own) == len(theirs) > 1
    for one, other in zip(own, theirs, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.slow
def test_a_spawned_worker_names_the_file_that_it_cannot_read(tmp_path: Path, spawned: None) -> None:
    task = task_from_settings(settings(tmp_path, "none", 32, 1))
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"\d\.png"):
        list(task.batches("train"))


def test_names_of_files_are_handed_over_without_a_copy() -> None:
    names = Packed.of(b"class/%06d.jpg" % number for number in range(5000))
    content = bytes(ForkingPickler.dumps(names))
    assert len(content) < 2000
    there = pickle.loads(content)
    assert [there[index] for index in (0, 17, 4999)] == [b"class/%06d.jpg" % index for index in (0, 17, 4999)]
    # the memory is the same, not another copy for each worker
    again = pickle.loads(bytes(ForkingPickler.dumps(names)))
    there.data[0] = ord("C")
    assert again[0] == b"Class/000000.jpg"
    there.data[0] = ord("c")
    for some in (names, Packed.of([]), names.take([3, 1])):
        copy = pickle.loads(pickle.dumps(some))
        assert [copy[index] for index in range(len(some))] == [some[index] for index in range(len(some))]
