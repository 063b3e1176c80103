"""How a pruned network came to be: the plans that it was pruned by, noted on the network itself."""

from __future__ import annotations

import dataclasses as dc
import functools
import itertools
from collections.abc import Sequence
from typing import Any

from torch import nn

from edakari.core.plan import Plan
from edakari.errors import PlanError
from edakari.surgery.structure import Structure, replaced, structure_of

__all__ = ["Step", "noted", "step_by", "steps_of"]

MEMORY = "edakari_steps"


@dc.dataclass(frozen=True)
class Step:
    """One cut.

    Args:
        plan: that was carried out.
        before: structure of the network that it was carried out on.
        after: structure of the network that it left.
    """

    plan: Plan
    before: Structure
    after: Structure

    def __deepcopy__(self, memo: Any) -> Step:
        return self


def steps_of(model: nn.Module) -> tuple[Step, ...]:
    """The cuts that led to a network, the first one first; copies of a network know them too."""
    found = vars(model).get(MEMORY, ())
    return found if isinstance(found, tuple) else ()


def noted(small: nn.Module, plan: Plan, model: nn.Module) -> nn.Module:
    """A network that a plan has just left of another, with the note of it."""
    step = Step(plan, structure_of(model), structure_of(small))
    setattr(small, MEMORY, (*steps_of(model), step))
    return small


def step_by(plan: Plan, steps: Sequence[Step]) -> tuple[tuple[Step, ...], Step]:
    """The last cut as one by this plan, and the cuts before it.

    Args:
        plan: the one of the last cut, or of several last cuts joined by `Plan.then`.
        steps: that led to a network.

    Raises:
        PlanError: it is neither.
    """
    for first in range(len(steps) - 1, -1, -1):
        last = steps[first:]
        if plan.fingerprint == last[0].plan.fingerprint and _joined(last) == set(plan.edits):
            return tuple(steps[:first]), Step(plan, last[0].before, last[-1].after)
    made = ", ".join(f"one of {len(step.plan.edits)} edits" for step in steps)
    raise PlanError(
        f"the network was not pruned by this plan of {len(plan.edits)} edits, but by {made}; pass the plan that was "
        "given to apply last"
    )


def _joined(steps: Sequence[Step]) -> set[Any] | None:
    """The edits of cuts as one plan; None where they are not one, as where a module was replaced between them."""
    try:
        for before, after in itertools.pairwise(steps):
            if replaced(before.after, after.before):
                return None
        return set(functools.reduce(Plan.then, (step.plan for step in steps)).edits)
    except PlanError:
        return None
