"""Images with classes in Hugging Face data sets and WebDataset shards: what was written is what is read."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edakari.errors import DataError
from edakari.tasks import DataSettings, task_from_settings

NAMES = ("ant", "bee", "cat")
GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (12, 8, 10, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def task_on(source: str, **settings: Any) -> Any:
    given = {"image_size": (8, 10), "workers": 0, "mean": (0.0,), "std": (1.0,), "batch_size": 4, **settings}
    return task_from_settings(DataSettings(source=source, **given))


def check(task: Any, classes: tuple[str, ...]) -> None:
    assert task.classes == classes
    found = [each for batch in task.batches("val") for each in zip(*batch, strict=True)]
    assert len(found) == 12
    for index, (image, label) in enumerate(found):
        assert label == LABELS[index]
        assert np.abs(image.permute(1, 2, 0).numpy() - PIXELS[index] / 255).max() < 1e-6


@pytest.mark.parametrize("named", [True, False])
def test_hugging_face_data_sets(tmp_path: Path, named: bool) -> None:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=list(NAMES)) if named else datasets.Value("string")
    column = LABELS.tolist() if named else [NAMES[each] for each in LABELS]
    features = datasets.Features({"img": datasets.Image(), "label": label})
    rows = {"img": [Image.fromarray(each) for each in PIXELS], "label": column}
    one = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "set")
    check(task_on(f"hf:{tmp_path / 'set'}?val=test"), NAMES)
    with pytest.raises(DataError, match=r"no columns of images and classes, only img \(Image\), label .*; name them"):
        task_on(f"hf:{tmp_path / 'set'}?image=picture")
    with pytest.raises(DataError, match="there is no option 'images', only config, train, val, image, label"):
        task_on(f"hf:{tmp_path / 'set'}?images=img")


def shard(path: Path, words: list[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for index, word in enumerate(words):
            buffer = io.BytesIO()
            Image.fromarray(PIXELS[index]).save(buffer, "PNG")
            for ending, content in (("png", buffer.getvalue()), ("cls", word.encode())):
                info = tarfile.TarInfo(f"{index:03d}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("words", "listed", "classes"),
    [
        ([str(each) for each in LABELS], None, ("0", "1", "2")),
        ([f"{each}\n" for each in LABELS], "ant\nbee\ncat\n", NAMES),
        ([NAMES[each] for each in LABELS], None, NAMES),
        ([NAMES[each] for each in LABELS], "ant\nbee\ncat\n", NAMES),
    ],
)
def test_shards(tmp_path: Path, words: list[str], listed: str | None, classes: tuple[str, ...]) -> None:
    for split in ("train", "val"):
        shard(tmp_path / f"{split}-000.tar", words)
    if listed:
        (tmp_path / "classes.txt").write_text(listed)
    check(task_on(f"webdataset:{tmp_path}"), classes)


def test_strange_shards_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", ["ant", "bee", "cow"])
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    with pytest.raises(DataError, match="the class 'cow' is unknown; known are"):
        task_on(f"webdataset:{tmp_path}")
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        info = tarfile.TarInfo("0.cls")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"0"))
    with pytest.raises(DataError, match=r"sample 0 of train-0\.tar has no image, or no \.cls file"):
        task_on(f"webdataset:{tmp_path}")
