"""Recovers accuracy after a cut with a few unlabelled batches, before any training."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from edakari.core.plan import Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Batch
from edakari.errors import DataError
from edakari.pipeline.context import Run
from edakari.surgery import reconstruct
from edakari.train import has_norms, recalibrate

__all__ = ["FITTED", "recovered"]

FITTED = 16
"""Default number of batches to which layers are refit."""


def recovered(run: Run, plan: Plan, model: nn.Module) -> tuple[nn.Module, Mapping[str, float] | None]:
    """Refit layers and recompute statistics of a cut network, as the run's settings ask.

    Args:
        run: run with the calibration data.
        plan: plan by which the network was cut.
        model: cut network.

    Returns:
        The network, and its metrics before the recovery; None if there was nothing to do.

    Raises:
        DataError: the task has no calibration data, or its batches have one image.
    """
    settings = run.settings
    recalibrated = settings.recalibrate > 0 and has_norms(model)
    if not recalibrated and not settings.reconstruct:
        return model, None
    before = run.evaluate(model)
    batches = _Own(run.task.batches("calibration"), settings.recalibrate or FITTED)
    if settings.reconstruct:
        model = reconstruct(run.dense, plan, batches, small=model, graph=run.graph, run=run.task.outputs)
    if recalibrated:
        try:
            model = recalibrate(model, batches, run.task.outputs)
        except DataError as error:
            raise DataError(f"{error}; without recalibration (recalibrate: 0) none are needed") from error
    return model, before


@dc.dataclass(frozen=True)
class _Own:
    """This process's part of the first batches of an iterable."""

    batches: Iterable[Batch]
    most: int

    def __iter__(self) -> Iterator[Batch]:
        return Processes.here().own(self.batches, self.most)
