"""What a few batches without labels bring back after a cut, before any training."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from edakari.core.plan import Plan
from edakari.core.protocols import Batch
from edakari.errors import DataError
from edakari.pipeline.context import Run
from edakari.surgery import reconstruct
from edakari.train import has_norms, recalibrate

__all__ = ["FITTED", "recovered"]

FITTED = 16
"""Batches that layers are refit to where no number is given."""


def recovered(run: Run, plan: Plan, model: nn.Module) -> tuple[nn.Module, Mapping[str, float] | None]:
    """A cut network with refit layers and statistics taken anew, as the run's settings ask for.

    Args:
        run: whose calibration data it is.
        plan: that the network was cut by.
        model: the network as cut.

    Returns:
        The network, and the figures that it had before; None where there was nothing to do.

    Raises:
        DataError: the task has no calibration data, or batches of one image.
    """
    settings = run.settings
    anew = settings.recalibrate > 0 and has_norms(model)
    if not anew and not settings.reconstruct:
        return model, None
    before = dict(run.task.evaluate(model))
    batches = _First(run.task.batches("calibration"), settings.recalibrate or FITTED)
    if settings.reconstruct:
        model = reconstruct(run.dense, plan, batches, small=model, graph=run.graph, run=run.task.outputs)
    if anew:
        try:
            model = recalibrate(model, batches, run.task.outputs)
        except DataError as error:
            raise DataError(f"{error}; without recalibration (recalibrate: 0) none are needed") from error
    return model, before


@dc.dataclass(frozen=True)
class _First:
    """The first batches of some."""

    batches: Iterable[Batch]
    most: int

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self.batches, self.most)
