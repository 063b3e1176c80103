"""What a recipe names is read: formats by name or suffix, several sources together, validation of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edakari.errors import DataError, UnknownName
from edakari.tasks.sources.examples import Joined, Wanted
from edakari.tasks.sources.formats import read_examples
from tests.tasks.random_objects import assert_read, pictures
from tests.tasks.test_coco import in_order, write


def test_sources_are_joined_and_validation_takes_the_place_of_what_is_beside(tmp_path: Path) -> None:
    parts = [pictures(seed, count=2, prefix=f"{seed} ") for seed in range(4)]
    for number, part in enumerate(parts):
        write(tmp_path / str(number), "train", part)
    write(tmp_path / "0", "val", parts[3])
    first, beside = read_examples(f"coco:{tmp_path / '0'}", Wanted())
    assert beside is not None
    assert_read(first, in_order(parts[0]))
    assert_read(beside, in_order(parts[3]))
    files = [str(tmp_path / str(number) / "annotations" / "instances_train2017.json") for number in range(3)]
    joined, val = read_examples("", Wanted(), train=[files[0], f"coco:{files[1]}"], val=files[2])
    assert isinstance(joined, Joined)
    assert val is not None
    assert_read(joined, in_order([*parts[0], *parts[1]]))
    assert_read(val, in_order(parts[2]))


def test_a_format_that_is_not_known_or_not_said_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="coco"):
        read_examples("coko:somewhere", Wanted())
    with pytest.raises(DataError, match=rf"write FORMAT:{tmp_path} with one of .*coco"):
        read_examples(str(tmp_path), Wanted())
