import errno
import os

import pytest

from edakari.core.file_errors import file_errors, in_words, require_writable
from edakari.core.files import replacing, write_text
from edakari.errors import RunFolderError
from tests.permissions import held, locked

FULL_NAME = "n" * 300


def indices(tmp_path):
    """Where no file can be written, by what is wrong there."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    return {
        "is a file, not a folder": (tmp_path / "file" / "x", tmp_path / "file" / "x" / "y"),
        "is a folder": (tmp_path / "folder",),
        "name is too long": (tmp_path / FULL_NAME, tmp_path / FULL_NAME / "x", tmp_path / "new" / FULL_NAME / "x"),
        "cannot be used": (tmp_path / "circle" / "x", "/proc/edakari/x", "/dev/null/x"),
    }


@pytest.mark.parametrize("write", [require_writable, lambda path: write_text(path, "x")])
def test_what_cannot_be_written_is_told_in_one_error_before_and_while_it_is_tried(tmp_path, write):
    for said, paths in indices(tmp_path).items():
        for path in paths:
            with pytest.raises(RunFolderError, match=said) as caught:
                write(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name not in ("file", "folder", "circle", "new")]


@pytest.mark.parametrize("write", [require_writable, lambda path: write_text(path, "x")])
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_locked_folder_is_told_with_its_owner_and_mode(tmp_path, write, mode):
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine", mode):
        for path in (tmp_path / "mine" / "x", tmp_path / "mine" / "new" / "x"):
            with pytest.raises(RunFolderError, match="permission denied") as caught:
                write(path)
            assert f"you are user {os.geteuid()}" in str(caught.value)
    assert not list((tmp_path / "mine").iterdir())


def test_a_trial_leaves_nothing_and_touches_nothing(tmp_path):
    (tmp_path / "x").write_text("mine")
    with held():
        require_writable(tmp_path / "x")
        require_writable(tmp_path / "new" / "y")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "mine")]


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOENT, errno.EIO, errno.EMFILE, errno.ENOSPC, errno.ESTALE])
def test_whatever_the_system_says_of_a_file_has_the_file_and_advice(tmp_path, number):
    error = OSError(number, os.strerror(number), str(tmp_path / "x"))

    @file_errors()
    def fail():
        raise error

    with pytest.raises(RunFolderError) as caught:
        fail()
    assert caught.value.__cause__ is error
    assert str(caught.value) == in_words(error)
    assert str(tmp_path / "x") in str(caught.value)
    assert f"[Errno {number}]" not in str(caught.value)


def test_what_is_of_no_file_goes_through():
    for error in (ConnectionError("no network"), TimeoutError(), KeyError("x")):
        with pytest.raises(type(error)), file_errors():
            raise error


def test_an_error_of_another_file_in_the_block_is_of_that_file(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        (tmp_path / "other" / "b").read_text()
    assert not list(tmp_path.iterdir())
