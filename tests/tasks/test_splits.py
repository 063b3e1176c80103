"""Which images go where: in proportion to the classes, and never none."""

from __future__ import annotations

import collections

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edakari.tasks import DataSettings
from edakari.tasks.sources import Arrays
from edakari.tasks.splits import divided


def source(*sizes: int) -> Arrays:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return Arrays(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, tuple(map(str, range(len(sizes)))))


def counts(labels: np.ndarray, classes: int) -> list[int]:
    found = collections.Counter(labels.tolist())
    return [found[label] for label in range(classes)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1), st.data())
def test_a_subset_has_each_class_in_proportion(sizes: list[int], data: st.DataObject) -> None:
    limit = data.draw(st.integers(2, max(2, sum(sizes) - 1)))
    splits, _ = divided(DataSettings(max_images=limit), source(*sizes), source(*sizes))
    taken = counts(splits["train"].labels, len(sizes))
    assert sum(taken) == min(limit, sum(sizes))
    for size, count in zip(sizes, taken, strict=True):
        # each class is rounded by at most a half, and what that adds up to is shared out by size
        rounding = 0.5 + size / sum(sizes) * len(sizes) / 2
        assert abs(count - size * sum(taken) / sum(sizes)) <= rounding + 1e-9


def test_rare_classes_do_not_crowd_out_a_frequent_one() -> None:
    splits, _ = divided(DataSettings(max_images=10), source(90, *[1] * 10), source(1))
    assert counts(splits["train"].labels, 1) == [10]


def test_something_is_always_left_to_validate_on() -> None:
    splits, notes = divided(DataSettings(val_share=0.001), source(5, 5), None)
    assert len(splits["val"].labels) == 1
    assert len(splits["train"].labels) == 9
    assert "validated on 1 images" in notes[0]
