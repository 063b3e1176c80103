import errno
import json
import os

import pytest

from edakari.core.files import replacing, write_json, write_text
from edakari.errors import RunFolderError


def test_a_block_that_fails_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_json_is_whole_and_folders_are_made(tmp_path):
    write_json(tmp_path / "x" / "y.json", {"ä": [1]})
    assert json.loads((tmp_path / "x" / "y.json").read_text(encoding="utf-8")) == {"ä": [1]}


def test_modes_follow_the_umask(tmp_path):
    write_text(tmp_path / "a", "x")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device")]
)
def test_a_full_disk_is_told_in_one_clear_error(tmp_path, error):
    def write() -> None:
        with replacing(tmp_path / "a"):
            raise error

    with pytest.raises(RunFolderError, match="disk is full"):
        write()
    assert not list(tmp_path.iterdir())
