"""Arrays whose headers and labels may say anything end in one error at once, or are read as they are."""

import io
import os
import time
import zipfile

import numpy as np
import pytest

from edakari.errors import DataError
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.sources import from_npz
from edakari.tasks.sources import npz as npz_module
from edakari.tasks.splits import _drawn

IMAGES, LABELS = np.zeros((4, 2, 2, 3), np.uint8), np.array([0, 1, 0, 1])


def array(header: str, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An .npy file of any header."""
    text = header.encode("latin-1").ljust(118) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little") + text + content


def stored(values) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def written(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def head(shape: str, dtype: str = "'|u1'") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"


WRONG = {
    "absurd shape": {"images": array(head("(1000000000, 1000000, 3, 3)"))},
    "shape beyond 64 bits": {"images": array(head(f"({10**30},)"))},
    "negative shape": {"images": array(head("(-1, -2, 3)"), bytes(6))},
    "shape of texts": {"images": array(head("('a',)"))},
    "broken header": {"images": array("{'descr': '|u1', 'shape': (((((")},
    "header of brackets": {"images": array("(" * 5000 + ")" * 5000)},
    "long header": {"images": array("{" + "'a':1," * 50_000 + "}", b"", b"\x02\x00")},
    "unknown version": {"images": array(head("(4, 2, 2, 3)"), bytes(48), b"\x09\x00")},
    "no header": {"images": b"\x93NUM"},
    "fewer bytes than said": {"images": array(head("(4, 2, 2, 3)"), bytes(40))},
    "pickled images": {"images": stored(np.array([print, print], dtype=object))},
    "pickled labels": {"labels": stored(np.array([print] * 4, dtype=object))},
    "a trillion nameless classes": {"class_names": array(head("(1000000000000,)", "'<U0'"))},
    "names in a table": {"class_names": stored(np.array([["a", "b"]]))},
    "a label of a trillion": {"labels": stored(np.array([0, 1, 0, 10**12]))},
    "a label of 50 million": {"labels": stored(np.array([0, 1, 0, 50_000_000]))},
    "a label beyond int64": {"labels": stored(np.array([0, 1, 0, 2**64 - 1], np.uint64))},
    "images without pixels": {"images": stored(np.zeros((4, 0, 2, 3), np.uint8))},
}


@pytest.mark.parametrize("case", WRONG)
def test_headers_and_labels_that_are_bombs_or_broken(case, tmp_path):
    path = written(tmp_path / "bad.npz", **{"images": stored(IMAGES), "labels": stored(LABELS), **WRONG[case]})
    start = time.process_time()
    with pytest.raises(DataError, match=r"bad\.npz") as caught:
        from_npz([path])
    assert time.process_time() - start < 2
    assert "\n" not in str(caught.value)


def test_what_unpacks_to_more_than_there_is_memory_is_not_unpacked(tmp_path, monkeypatch):
    zeros = np.zeros((1000, 32, 32, 3), np.uint8)
    path = written(tmp_path / "a.npz", images=stored(zeros), labels=stored(np.arange(1000) % 2))
    assert len(from_npz([path]).labels) == 1000
    assert path.stat().st_size < zeros.nbytes / 100
    monkeypatch.setattr(npz_module, "_memory", lambda: 10**6)
    with pytest.raises(DataError, match=r"a\.npz.*unpacks"):
        from_npz([path])


def test_what_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    np.save(tmp_path / "one", IMAGES)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("pipe", "folder", "one", "missing"):
        with pytest.raises(DataError, match=f"{name}"):
            from_npz([tmp_path / f"{name}.npz"])


@pytest.mark.parametrize("way", ["plain", "compressed", "fortran", "names"])
def test_arrays_are_read_as_numpy_wrote_them(way, tmp_path):
    rng = np.random.default_rng(0)
    images, more = rng.integers(0, 256, (6, 4, 5, 3), np.uint8), {}
    labels = np.array([0, 2, 1, 0, 2, 1], np.uint16)
    images = np.asfortranarray(images) if way == "fortran" else images
    more = {"class_names": np.array(["a", "é", "c"])} if way == "names" else {}
    (np.savez_compressed if way == "compressed" else np.savez)(tmp_path / "a.npz", images=images, labels=labels, **more)
    source = from_npz([tmp_path / "a.npz"])
    assert (source.images == images).all()
    assert source.labels.tolist() == labels.tolist()
    assert source.classes == (("a", "é", "c") if way == "names" else ("0", "1", "2"))


@pytest.mark.parametrize("label", [2**32 + 1, -(2**40), 10**12, 3_000_000])
def test_labels_of_pixels_that_no_class_has(label, tmp_path):
    labels = np.zeros((4, 2, 2), np.int64)
    labels[0, 0, 0], labels[1, 0, 0] = label, 1
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=labels)
    with pytest.raises(DataError, match=r"a\.npz"):
        task_from_settings(DataSettings(task="segmentation", source=str(tmp_path / "a.npz")))


def test_draws_are_in_proportion_to_the_classes_and_quick_for_many():
    labels = np.repeat([3, 5, 9], [10, 20, 70])
    for seed in range(5):
        drawn = _drawn(labels, 20, seed)
        assert np.bincount(labels[drawn])[[3, 5, 9]].tolist() == [2, 4, 14]
    start = time.process_time()
    assert len(_drawn(np.arange(300_000), 1000, 0)) == 1000
    assert time.process_time() - start < 2
