"""The steps that all token pruning methods share: insert selectors, meet the budget, train."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence

from torch import nn

from edakari.core.copying import copied
from edakari.core.method import Job, Outcome
from edakari.core.plan import Plan
from edakari.core.protocols import Cost
from edakari.core.stability import experimental
from edakari.errors import DataError, ModelError
from edakari.graph import example_for
from edakari.methods.tokens.counts import planned, token_limits
from edakari.methods.tokens.progressive import Progress, phases, profile, progressive
from edakari.methods.tokens.selector_training import TokenTraining, train_selectors
from edakari.surgery import apply
from edakari.surgery.tokens import TokenSites, token_sites
from edakari.surgery.tokens.design import TokenDesign

__all__ = ["TokenTraining", "progressive_design", "prune_tokens_by", "sites_of"]


def sites_of(job: Job) -> TokenSites:
    """Return the blocks of a job's network in front of which selectors can be inserted."""
    return token_sites(job.model, example_for(job.model, job.graph.inputs))


@experimental("token pruning", "its settings, the form of its plans and the networks that it saves")
def prune_tokens_by(
    name: str,
    job: Job,
    design: TokenDesign,
    keep_ratios: Sequence[float] = (),
    training: TokenTraining | None = None,
    start: nn.Module | None = None,
) -> Outcome:
    """Prune the tokens of a job's network: choose counts within the budget, insert selectors, train, set thresholds.

    Args:
        name: name of the method, recorded in the plan.
        job: network, budget and data.
        design: selectors and their blocks.
        keep_ratios: fraction of patches behind each selector, set by the user; empty takes the largest within the
            budget.
        training: settings of the training; None if the selectors have no weights. Without data, selectors keep their
            initial weights.
        start: network with selectors whose weights the training begins with; see `train_selectors`.

    Raises:
        DataError: the selectors start with random weights, and there are no data to train them.
    """

    def solve(costs: Sequence[Cost]) -> Plan:
        return dc.replace(planned(job, design, costs, keep_ratios), method=name)

    learns = training is not None and has_data(job)
    if training is not None and not learns and design.settings.get("start") == "random":
        raise DataError(
            f"method {name!r}: selectors with random weights need training, but the task has no data; add data, or "
            "set start: unlike"
        )
    plan = job.meet_budget(solve)
    edits = {edit.block: edit.count for edit in plan.tokens()}
    job.log("tokens", {f"{block} keeps": float(count) for block, count in edits.items()})
    if not edits or training is None or not learns:
        return Outcome(plan, apply(job.model, plan, job.graph))
    return Outcome(plan, train_selectors(job, design.sites, plan, training, start))


def has_data(job: Job) -> bool:
    """Whether the calibration split of a job's task has any batches."""
    return next(iter(job.task.batches("calibration")), None) is not None


def progressive_design(
    job: Job, design: TokenDesign, training: TokenTraining, steps: Progress
) -> tuple[TokenDesign, nn.Module | None]:
    """Return a design whose blocks and ratios come from the progressive schedule, and the network of its last step.

    The network has a selector before each pruned block; it is None if no block is pruned.

    Args:
        job: network, budget and data.
        design: selectors and their settings.
        training: settings of the training of the selectors.
        steps: settings of the schedule.

    Raises:
        ModelError: the network has several stages of tokens.
        DataError: the task has no data.
        InfeasibleBudget: no ratios within the allowed accuracy drop meet the budget.
    """
    sites = design.sites
    if sites.staged:
        raise ModelError(
            f"the progressive schedule needs a single stage of tokens, but this {type(job.model).__name__} has "
            f"{len(sites.firsts())}; use schedule: geometric"
        )
    if not has_data(job):
        raise DataError(
            "the progressive schedule trains after every step, but the task has no data; add data, or use "
            "schedule: geometric"
        )
    limits = token_limits(job, design)
    short = dc.replace(training, imitation_epochs=0, selector_epochs=0, joint_epochs=steps.epochs_per_step)

    def train(start: nn.Module | None, counts: Mapping[int, int]) -> nn.Module:
        indices = tuple(sorted(counts))
        edits = dc.replace(design, blocks=indices).edits(tuple(counts[index] for index in indices))
        plan = Plan(edits, job.graph.fingerprint, job.graph.inputs)
        return train_selectors(dc.replace(job, model=copied(job.model)), sites, plan, short, start)

    counts, last = progressive(job, sites.names, sites.patches[0], limits, train, steps)
    ratios = [count / sites.patches[0] for count in counts]
    indices = phases(ratios, steps.phase_tolerance)
    if not indices:
        return dc.replace(design, blocks=(len(ratios) - 1,)), last
    return dc.replace(design, blocks=indices, schedule=profile([ratios[index] for index in indices])), last
