"""Random numbers of images, and crops that follow from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import _geometry

from edakari.tasks.draws import DRAWS, Draws, draws_of, key_of, splitmix
from edakari.tasks.transforms import FIRST_TRY, TRIES, crop_window


def test_the_generator_is_splitmix() -> None:
    found = splitmix(np.array([1234567], np.uint64), np.arange(1, 6, dtype=np.uint64))
    assert found.tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_an_image_has_the_same_numbers_in_any_batch_and_others_in_any_other_case() -> None:
    key = key_of(3, 1)
    first, second = draws_of(key, [5, 7, 5], views=2)
    (alone,) = draws_of(key, np.array([7]))
    assert first.shape == second.shape == (3, DRAWS)
    assert FIRST_TRY + 2 * TRIES <= DRAWS
    assert np.array_equal(first[1], alone[0])
    assert np.array_equal(first[0], first[2])
    others = [first[0], first[1], second[0], draws_of(key_of(3, 2), [5])[0][0], draws_of(key_of(4, 1), [5])[0][0]]
    assert len(np.unique(np.concatenate(others))) == 5 * DRAWS


def test_numbers_are_uniform_and_independent() -> None:
    (found,) = draws_of(0, range(20_000))
    assert found.min() >= 0
    assert found.max() < 1
    assert np.abs(found.mean(0) - 0.5).max() < 4 * 0.2887 / 20_000**0.5
    assert np.abs(np.corrcoef(found.T) - np.eye(DRAWS)).max() < 5 / 20_000**0.5
    assert abs(np.corrcoef(found[1:, 0], found[:-1, 0])[0, 1]) < 4 / 20_000**0.5


class Drawn:
    """Stands in for torch where torchvision draws a crop: it gives the numbers of an image."""

    exp = staticmethod(torch.exp)

    def __init__(self, draws: Draws) -> None:
        self.tries = iter(draws[FIRST_TRY:])
        self.places = iter(draws[1:3])

    def empty(self, size: int) -> Drawn:
        return self

    def uniform_(self, low: Any, high: Any) -> torch.Tensor:
        return torch.tensor(float(low) + (float(high) - float(low)) * next(self.tries), dtype=torch.float64)

    def randint(self, low: int, high: int, size: tuple[int]) -> torch.Tensor:
        return torch.tensor(low + int(next(self.places) * (high - low)))


@pytest.mark.parametrize(("height", "width"), [(375, 500), (60, 400), (400, 60), (3, 1000), (1000, 3), (9, 7), (1, 1)])
def test_crops_are_those_of_torchvision(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scale, ratio = (0.2, 0.9), (0.6, 1.7)
    theirs, image = v2.RandomResizedCrop(32, scale, ratio), torch.empty(3, height, width)
    for draws in draws_of(1, range(100))[0]:
        monkeypatch.setattr(_geometry, "torch", Drawn(draws))
        made = theirs.make_params([image])
        expected = made["top"], made["left"], made["height"], made["width"]
        assert crop_window(height, width, scale, ratio, draws) == expected
