"""What is left of a training that diverged, and what to do about it."""

from __future__ import annotations

from edakari.core.finite import finite, non_finite_tensor
from edakari.core.protocols import Schedule
from edakari.train.scope import Trained

__all__ = ["advice_for", "diverged"]


def diverged(trained: Trained) -> str | None:
    """The first tensor that is no longer finite, in words; None where all are."""
    name = non_finite_tensor(trained.model)
    if name is not None:
        return f"{name!r} of the network"
    return None if finite(trained.other) else "a parameter besides the network's"


def advice_for(schedule: Schedule) -> str:
    """What to do where a training by this schedule diverges."""
    rate = f"lower the learning rate ({schedule.lr:g})"
    return f"{rate} or set clip" if schedule.clip <= 0 else f"{rate} or clip ({schedule.clip:g})"
