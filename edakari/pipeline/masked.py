"""Masks of single weights in a run: they hold in every later training, and the budget's sparsity is checked."""

from __future__ import annotations

from torch import nn

from edakari.core.method import name_of
from edakari.core.plan import MaskWeights, Plan
from edakari.core.protocols import Hook
from edakari.criteria import CRITERIA
from edakari.errors import PlanError
from edakari.methods.tickets.fixed_masks import FixedMasks
from edakari.pipeline.context import Run
from edakari.pipeline.exact import masked_counts
from edakari.pipeline.problems import Problem
from edakari.pipeline.settings import PruneSettings
from edakari.results import MaskedWeights
from edakari.surgery import held_masks

__all__ = ["fixed_masks", "masked_within", "sparsity_problems"]


def fixed_masks(model: nn.Module) -> list[Hook]:
    """Return the hooks with which a pruned network is trained: its masked weights stay zero.

    Args:
        model: a network as `edakari.apply` returned it, perhaps trained since then.
    """
    masks = held_masks(model)
    return [FixedMasks(model, masks)] if masks else []


def masked_within(run: Run, plan: Plan, sparsity: float) -> MaskedWeights | None:
    """Count the masked weights of a plan, and refuse fewer than a budget asks for.

    Args:
        run: the run.
        plan: plan for its dense network.
        sparsity: fraction of the maskable weights; 0 asks for none.

    Returns:
        The counts; None if the plan masks none, or prunes tokens.

    Raises:
        PlanError: the plan masks fewer.
    """
    masked = masked_counts(run, plan)
    every = masked.weights if masked else 0
    found = every - masked.kept if masked else 0
    if sparsity and (not masked or found < int(sparsity * every)):
        name = name_of(run.settings.method)
        raise PlanError(f"method {name!r} masked {found} of {every} weights; the budget asks for {sparsity:.6g}")
    return masked


def sparsity_problems(asked: PruneSettings) -> list[Problem]:
    """Find what of a budget's sparsity, or of masks of weights, does not suit the method.

    Args:
        asked: recipe, or settings of a call, to check.
    """
    budget, emits = asked.budget, asked.method.emits
    # a criterion's name stands for the method that scores by it
    name = CRITERIA.name_of(getattr(asked.method, "criterion", None)) or name_of(asked.method)
    problems = []
    if budget.sparsity and MaskWeights not in emits:
        text = f"asks for a sparsity, but method {name!r} masks no weights; take 'gradual_magnitude', or 'macs<=50%'"
        problems.append(Problem("budget", text))
    if emits == {MaskWeights} and (budget.terms or not budget.sparsity):
        text = f"method {name!r} removes no channels: it meets a sparsity such as 'sparsity>=90%', not {str(budget)!r}"
        problems.append(Problem("budget", text))
    return problems
