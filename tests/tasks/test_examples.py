"""Subsets and concatenations of examples are the examples themselves, in the order asked for."""

from __future__ import annotations

import dataclasses as dc
from typing import Any

import numpy as np
import pytest

from edakari.errors import DataError
from edakari.tasks.sources.examples import Chosen, Examples, Joined, labels_of, notes_of, sizes_of


@dc.dataclass(frozen=True)
class Numbers:
    """Examples that are numbers, with all that a source may have."""

    first: int
    count: int
    classes: tuple[str, ...] = ("a", "b")
    joints: tuple[str, ...] = ("left", "right")
    flip_pairs: tuple[tuple[int, int], ...] = ((0, 1),)

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"from {self.first}",)

    @property
    def sizes(self) -> Any:
        return np.array([[self.first + index, 1] for index in range(self.count)])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError
        return self.first + index, {"image_id": self.first + index}

    def labels_of(self, index: int) -> Any:
        return np.array([self.first + index])


class Bare:
    classes = ("a",)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return index, {}


def test_a_subset_of_a_concatenation_has_the_images_asked_for() -> None:
    joined = Joined((Numbers(0, 3), Numbers(10, 1), Numbers(20, 4)))
    everything = [0, 1, 2, 10, 20, 21, 22, 23]
    assert [joined[index][0] for index in range(len(joined))] == everything
    assert [image for image, _ in joined] == everything, "plain iteration ends"  # type: ignore[attr-defined]
    assert joined[-1][0] == 23
    some = np.array([7, 0, 3])
    chosen = Chosen(joined, some)
    assert isinstance(chosen, Examples)
    assert [chosen[index][0] for index in range(len(chosen))] == [everything[index] for index in some]
    assert [int(labels_of(chosen, index)[0]) for index in range(3)] == [23, 0, 10]  # type: ignore[index]
    assert sizes_of(chosen)[:, 0].tolist() == [23, 0, 10]
    assert notes_of(chosen) == ("from 0", "from 10", "from 20")
    assert (chosen.classes, chosen.joints, chosen.flip_pairs) == (("a", "b"), ("left", "right"), ((0, 1),))


def test_what_a_source_need_not_have_is_not_asked_for() -> None:
    chosen = Chosen(Bare(), np.array([1]))
    assert (labels_of(chosen, 0), notes_of(chosen), chosen.joints, chosen.flip_pairs) == (None, (), (), ())
    assert sizes_of(chosen).tolist() == [[0, 0]]


def test_sources_of_other_classes_are_not_joined() -> None:
    with pytest.raises(DataError, match=r"different classes: \['a', 'b'\] and \['b', 'a'\]"):
        Joined((Numbers(0, 1), Numbers(0, 1, classes=("b", "a"))))
    with pytest.raises(DataError, match="different joints"):
        Joined((Numbers(0, 1), Numbers(0, 1, joints=())))
