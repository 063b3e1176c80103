import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edakari.errors import DataError, UnknownName
from edakari.tasks.sources import embedded, from_folder, from_npz
from edakari.tasks.sources.packed import Packed


def save(path, images=None, labels=None, **more):
    images = np.zeros((4, 6, 6, 3), np.uint8) if images is None else images
    labels = np.array([0, 1, 0, 1]) if labels is None else labels
    np.savez(path, images=images, labels=labels, **more)
    return path


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


def test_npz_files_are_joined_in_order(tmp_path):
    first = save(tmp_path / "a.npz", np.full((2, 5, 5, 3), 1, np.uint8), np.array([0, 1], np.uint8))
    second = save(tmp_path / "b.npz", np.full((3, 5, 5, 3), 2, np.uint8), np.array([2, 1, 0], np.uint8))
    source = from_npz([first, second])
    assert source.images[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert source.labels.tolist() == [0, 1, 2, 1, 0]
    assert source.labels.dtype == np.int64
    assert source.classes == ("0", "1", "2")


def test_grey_images_without_a_channel_get_one(tmp_path):
    source = from_npz([save(tmp_path / "a.npz", np.zeros((4, 5, 5), np.uint8), class_names=np.array(["cat", "dog"]))])
    assert source.images.shape == (4, 5, 5, 1)
    assert source.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((4, 5, 5, 3), np.float32)}, "float32"),
        ({"images": np.zeros((4, 5, 5, 2), np.uint8)}, r"\[4, 5, 5, 2\]"),
        ({"images": np.zeros((4, 5), np.uint8)}, r"\[4, 5\]"),
        ({"labels": np.array([0, 1, 0])}, r"labels.*\[3\]"),
        ({"labels": np.array([0.0, 1.0, 0.0, 1.0])}, "labels.*float64"),
        ({"labels": np.array([0, 0, 0, 0])}, "only one class"),
        ({"labels": np.array([0, -1, 0, 1])}, "-1 to 1"),
        ({"labels": np.array([0, 1, 2, 1]), "class_names": np.array(["a", "b"])}, "0 to 2.*2 classes"),
        ({"images": np.zeros((0, 5, 5, 3), np.uint8), "labels": np.zeros(0, np.int64)}, "no images"),
    ],
)
def test_npz_of_another_form_is_one_clear_error(tmp_path, arrays, words):
    path = save(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(DataError, match=words) as caught:
        from_npz([path])
    assert "wrong.npz" in str(caught.value)


def test_npz_without_keys_missing_or_damaged(tmp_path):
    np.savez(tmp_path / "keys.npz", data=np.zeros(3))
    with pytest.raises(DataError, match=r"images.*labels.*data"):
        from_npz([tmp_path / "keys.npz"])
    with pytest.raises(DataError, match="no such file"):
        from_npz([tmp_path / "none.npz"])
    whole = save(tmp_path / "whole.npz").read_bytes()
    for name, content in (("cut.npz", whole[: len(whole) // 2]), ("text.npz", b"hello"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            from_npz([tmp_path / name])


def test_a_pickle_inside_is_never_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    content = io.BytesIO()
    np.save(content, np.array([Harmful()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "bad.npz", images=np.array([Harmful()], dtype=object), labels=np.array([0]))
    (tmp_path / "ran").unlink(missing_ok=True)
    (tmp_path / "plain.npz").write_bytes(content.getvalue())
    for name in ("bad.npz", "plain.npz"):
        with pytest.raises(DataError, match=name):
            from_npz([tmp_path / name])
    assert not (tmp_path / "ran").exists()


def test_files_of_different_image_sizes_are_refused(tmp_path):
    first, second = save(tmp_path / "a.npz"), save(tmp_path / "b.npz", np.zeros((4, 7, 7, 3), np.uint8))
    with pytest.raises(DataError, match="differ in size"):
        from_npz([first, second])


def test_folders_give_sorted_classes_and_files(tmp_path):
    for name in ("dog/b.png", "dog/a.jpg", "cat/deep/c.png", "cat/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x") if name.endswith("txt") else picture(tmp_path / name)
    source = from_folder(tmp_path)
    assert source.classes == ("cat", "dog")
    assert [source.path(index).name for index in range(3)] == ["c.png", "a.jpg", "b.png"]
    assert source.labels.tolist() == [0, 1, 1]
    assert source.pixels(0).shape == (3, 8, 8)


def test_what_is_hidden_is_no_image(tmp_path):
    for name in ("dog/a.JPG", "dog/._a.jpg", "dog/.ipynb_checkpoints/a-checkpoint.jpg", "cat/b.png", ".git/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / name)
    source = from_folder(tmp_path)
    assert [source.names.text(index) for index in range(len(source.names))] == ["cat/b.png", "dog/a.JPG"]


GROUPS = st.lists(st.tuples(st.binary(max_size=3), st.lists(st.binary(max_size=5))))


@given(GROUPS, st.sampled_from([1, 2**32]), st.data())
def test_packed_strings_are_taken_as_lists_are(groups, small, data):
    strings = [prefix + part for prefix, parts in groups for part in parts]
    indices = data.draw(st.lists(st.integers(0, len(strings) - 1))) if strings else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edakari.tasks.sources.packed.CHUNK", data.draw(st.integers(1, 4)))
        patch.setattr("edakari.tasks.sources.packed.SMALL", small)
        packed = Packed.behind(groups)
        taken = packed.take(indices)
    assert [taken[index] for index in range(len(taken))] == [strings[index] for index in indices]
    assert [packed[index] for index in range(len(packed))] == strings
    assert packed.starts.dtype == (np.uint32 if small > packed.starts[-1] else np.int64)


def test_folders_that_are_missing_empty_or_of_one_class(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        from_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it is empty"):
        from_folder(tmp_path / "empty")
    picture(tmp_path / "one" / "cat" / "a.png")
    with pytest.raises(DataError, match="1 class folders"):
        from_folder(tmp_path / "one")
    (tmp_path / "one" / "dog").mkdir()
    with pytest.raises(DataError, match=r"dog.*no images"):
        from_folder(tmp_path / "one")
    picture(tmp_path / "one" / "dog" / "a.png")
    with pytest.raises(DataError, match=r"missing \['bird'\], unknown \['cat'\]"):
        from_folder(tmp_path / "one", ("bird", "dog"))


def test_an_unreadable_image_is_named(tmp_path):
    picture(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "torn.png").write_bytes((tmp_path / "cat" / "a.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"torn\.png"):
        from_folder(tmp_path).pixels(1)


def test_the_embedded_data_is_balanced_and_known_by_name():
    test = embedded("fashion", "test")
    assert test.images.shape == (2000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [200] * 10
    assert test.classes[9] == "Ankle boot"
    with pytest.raises(UnknownName, match="fashion"):
        embedded("fashon", "test")
