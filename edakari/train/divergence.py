"""Detection of a training that diverged, and advice for its error message."""

from __future__ import annotations

from edakari.core.finite import finite, non_finite_tensor
from edakari.core.protocols import Schedule
from edakari.train.scope import Trained

__all__ = ["advice_for", "diverged"]


def diverged(trained: Trained) -> str | None:
    """Name the first tensor that is no longer finite; None if all are finite."""
    name = non_finite_tensor(trained.model)
    if name is not None:
        return f"{name!r} of the network"
    return None if finite(trained.other) else "a parameter outside the network"


def advice_for(schedule: Schedule) -> str:
    """Advice for a training with this schedule that diverged."""
    rate = f"lower the learning rate ({schedule.lr:g})"
    return f"{rate} or set clip" if schedule.clip <= 0 else f"{rate} or clip ({schedule.clip:g})"
