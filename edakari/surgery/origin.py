"""History of a pruned network: the plans that were applied, recorded on the network itself."""

from __future__ import annotations

import dataclasses as dc
import functools
import itertools
from collections.abc import Sequence
from typing import Any

from torch import nn

from edakari.core.history import MEMORY
from edakari.core.plan import Plan
from edakari.errors import PlanError
from edakari.surgery.structure import Structure, replaced, structure_of

__all__ = ["Step", "noted", "step_by", "steps_of"]


@dc.dataclass(frozen=True)
class Step:
    """One application of a plan.

    Args:
        plan: the plan that was applied.
        before: structure of the network before.
        after: structure of the network afterwards.
    """

    plan: Plan
    before: Structure
    after: Structure

    def __deepcopy__(self, memo: Any) -> Step:
        return self


def steps_of(model: nn.Module) -> tuple[Step, ...]:
    """Return the steps that led to a network, in order; copies of a network keep this record."""
    found = vars(model).get(MEMORY, ())
    return found if isinstance(found, tuple) else ()


def noted(small: nn.Module, plan: Plan, model: nn.Module) -> nn.Module:
    """Record on a pruned network that a plan was applied to `model`."""
    step = Step(plan, structure_of(model), structure_of(small))
    setattr(small, MEMORY, (*steps_of(model), step))
    return small


def step_by(plan: Plan, steps: Sequence[Step]) -> tuple[tuple[Step, ...], Step]:
    """Return the steps before this plan, and the last step as one application of this plan.

    Args:
        plan: the plan of the last step, or of the last steps joined by `Plan.then`.
        steps: the steps that led to a network.

    Raises:
        PlanError: the plan is neither.
    """
    for first in range(len(steps) - 1, -1, -1):
        last = steps[first:]
        if plan.fingerprint == last[0].plan.fingerprint and _joined(last) == set(plan.edits):
            return tuple(steps[:first]), Step(plan, last[0].before, last[-1].after)
    made = ", ".join(f"one of {len(step.plan.edits)} edits" for step in steps)
    raise PlanError(
        f"the network was not pruned by this plan of {len(plan.edits)} edits, but by {made}; pass the last plan "
        "that was given to apply"
    )


def _joined(steps: Sequence[Step]) -> set[Any] | None:
    """Join the edits of several steps; None if this is impossible, for instance after a module was replaced."""
    try:
        for before, after in itertools.pairwise(steps):
            if replaced(before.after, after.before):
                return None
        return set(functools.reduce(Plan.then, (step.plan for step in steps)).edits)
    except PlanError:
        return None
