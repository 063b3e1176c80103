"""A share of each pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edakari.core.protocols import Schedule
from edakari.train import FitSettings, fit
from edakari.train.part import PartOfEach


class Shuffled:
    """Batches whose first image tells epoch and number."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):  # type: ignore[no-untyped-def]
        return ((torch.full((2, 1), 100.0 * self.epoch + number),) for number in range(self.count))


def firsts(batches):  # type: ignore[no-untyped-def]
    return [float(batch[0][0]) for batch in batches]


def test_it_gives_the_first_batches_of_each_epoch() -> None:
    part = PartOfEach(Shuffled(8), 0.25)
    assert len(part) == 2
    assert firsts(part) == [0.0, 1.0]
    part.set_epoch(3)
    assert firsts(part) == [300.0, 301.0]
    assert firsts(part.skip(1)) == [301.0]
    assert firsts(part.skip(2)) == []


@pytest.mark.parametrize(("share", "count"), [(1.0, 8), (0.01, 1), (0.3, 2)])
def test_there_is_always_a_batch(share: float, count: int) -> None:
    part = PartOfEach(Shuffled(8), share)
    assert len(part) == len(list(part)) == count


def test_it_is_a_whole_epoch_to_fit() -> None:
    seen: list[float] = []

    def objective(model: nn.Module, batch):  # type: ignore[no-untyped-def]
        seen.append(float(batch[0][0]))
        return {"loss": model(batch[0]).square().mean()}

    fit(
        nn.Linear(1, 1),
        objective,
        PartOfEach(Shuffled(4), 0.5),
        Schedule(epochs=2, lr=1e-9),
        settings=FitSettings(progress=False, device="cpu"),
    )
    assert seen == [0.0, 1.0, 100.0, 101.0]
