"""Counts what trainings take, so that runs can be compared by the images that they saw."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from edakari.core.protocols import Batch, Objective, Schedule
from edakari.train import History

__all__ = ["CountedTraining", "epochs_left"]


@dc.dataclass
class CountedTraining:
    """A training loop that counts its batches; run state.

    Args:
        train: the loop, with the arguments of `edakari.train.fit`.
        batches: number of batches of all trainings so far, over all epochs.
    """

    train: Callable[..., History]
    batches: int = 0

    def __call__(
        self, model: nn.Module, objective: Objective, batches: Iterable[Batch], schedule: Schedule, **others: Any
    ) -> History:
        """Train a network; see `edakari.train.fit`."""
        history = self.train(model, objective, batches, schedule, **others)
        self.batches += schedule.epochs * len(batches)  # type: ignore[arg-type]
        return history


def epochs_left(epochs: int, batches: Iterable[Batch], taken: int) -> int:
    """Return the epochs that are left of a number of epochs after other trainings.

    Args:
        epochs: epochs of all trainings together.
        batches: batches of one epoch.
        taken: number of batches of the other trainings.
    """
    return max(epochs - round(taken / max(len(batches), 1)), 0)  # type: ignore[arg-type]
