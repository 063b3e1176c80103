"""How a search meets a budget: which units go at an event, and how strong the penalty is until the next one."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edakari.core.budget import Budget, Limits
from edakari.core.graph import Graph
from edakari.core.method import Job, MeetBudget, allocate_once
from edakari.core.protocols import Cost
from edakari.core.space import Sizes, legal_sizes
from edakari.cost import bind
from edakari.errors import InfeasibleBudget, ModelError
from edakari.methods.tickets.gates import GateGroup

__all__ = ["Mask", "Numbers", "SearchBudget", "Units", "require_alive", "require_met", "steered"]

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
STRONGER = 4.0
"""Largest factor by which the penalty changes at one event."""
HALVINGS = 24


@dc.dataclass(frozen=True)
class SearchBudget:
    """A budget that a search meets.

    Args:
        limits: the budget, bound to the dense network.
        budget: the budget itself.
        costs: measured costs that it names.
        loop: function that repeats a choice while the measured network misses the budget; see `Job.meet_budget`.
    """

    limits: Limits
    budget: Budget
    costs: Sequence[Cost] = ()
    loop: MeetBudget = allocate_once

    @classmethod
    def of(cls, budget: Budget | str, graph: Graph, costs: Sequence[Cost] = ()) -> SearchBudget:
        """Bind a budget to the dense network.

        Args:
            budget: budget, such as "macs<=40%".
            graph: graph of the dense network.
            costs: measured costs that the budget names.
        """
        budget = Budget.parse(budget) if isinstance(budget, str) else budget
        return cls(bind(budget, graph, costs), budget, costs)

    @classmethod
    def of_job(cls, job: Job) -> SearchBudget:
        """Bind the budget of a job; a latency is met by measurement."""
        return cls(bind(job.budget, job.graph, job.costs), job.budget, job.costs, job.loop)


@dc.dataclass(frozen=True, eq=False)
class Units:
    """The units of a network that is searched, and which numbers of them are legal.

    Args:
        groups: groups that are left.
        spans: positions of each group's units.
        empties: groups whose branch goes when they are empty, with that branch's name; others keep some units.
        dropped: names of the branches that were dropped before.
    """

    groups: Sequence[GateGroup]
    spans: Mapping[str, slice]
    empties: Mapping[str, str]
    dropped: Collection[str] = ()

    def sizes(self, keep: Mask) -> dict[str, int]:
        """Return the size of each group, and 0 for branches without units.

        Args:
            keep: units that stay, bool [units].
        """
        counts = {each.name: int(keep[self.spans[each.name]].sum()) for each in self.groups}
        gone = [self.empties[name] for name, count in counts.items() if not count and name in self.empties]
        return {**counts, **dict.fromkeys((*self.dropped, *gone), 0)}

    def legal(self, keep: Mask, gates: Numbers) -> Mask:
        """Return the mask with the units of largest gate back where a size would be illegal.

        Args:
            keep: units that stay, bool [units].
            gates: gate of each unit, float64 [units].
        """
        keep = keep.copy()
        for each in self.groups:
            span = self.spans[each.name]
            part = keep[span]
            more = self._legal_count(each, int(part.sum()), len(part)) - int(part.sum())
            gone = np.flatnonzero(~part)
            part[gone[np.argsort(-gates[span][gone], kind="stable")[:more]]] = True
        return keep

    def first_within(self, limits: Limits, order: npt.NDArray[np.int64], gates: Numbers) -> Mask:
        """Remove units in an order until a budget is met, and return the others.

        Where legal sizes or branches make large steps, units return, in the reverse order, as far as the budget allows.

        Args:
            limits: the budget.
            order: units that may be removed, in the order of removal, int64 [removable].
            gates: gate of each unit, float64 [units].

        Returns:
            The units that stay, bool [units]; without all of `order` if the budget cannot be met.
        """

        def left(count: int) -> Mask:
            keep = np.ones(len(gates), dtype=np.bool_)
            keep[order[:count]] = False
            return self.legal(keep, gates)

        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if limits.excess(self.sizes(left(middle))) <= 0:
                high = middle
            else:
                low = middle + 1
        keep = left(low)
        return self._refilled(keep, limits, order, gates) if limits.excess(self.sizes(keep)) <= 0 else keep

    def _refilled(self, keep: Mask, limits: Limits, order: npt.NDArray[np.int64], gates: Numbers) -> Mask:
        """Return units as far as the budget allows: of each group those of largest gate, up to its next legal size."""
        rank = np.full(len(gates), -1)
        rank[order] = np.arange(len(order))
        best = {name: int(np.where(keep[span], -1, rank[span]).max()) for name, span in self.spans.items()}
        for each in sorted(self.groups, key=lambda each: -best[each.name]):
            span = self.spans[each.name]
            while not keep[span].all():
                trial = keep.copy()
                gone = np.flatnonzero(~trial[span])
                trial[span.start + gone[np.argmax(gates[span][gone])]] = True
                trial = self.legal(trial, gates)
                if limits.excess(self.sizes(trial)) > 0:
                    break
                keep = trial
        return keep

    def _legal_count(self, each: GateGroup, count: int, most: int) -> int:
        """The smallest legal size that is at least a count."""
        if not count and each.name in self.empties:
            return 0
        return next((size for size in legal_sizes(each.group) if count <= size <= most), most)


def steered(
    rho: float, applied: float, rates: Numbers, gates: Numbers, ahead: float, meets: Callable[[Numbers], bool]
) -> float:
    """Choose the strength of the penalty with which the search will meet its budget.

    Gates that fell are taken to fall on at the same rate for the same strength, and in proportion for others.

    Args:
        rho: strength until now.
        applied: mean of the strength that was applied since the last event, with its warm-up.
        rates: change of each gate per epoch since the last event, float64 [units].
        gates: gate of each unit, float64 [units].
        ahead: number of epochs until the budget should be met.
        meets: function that tells whether the budget is met when gates have some values.

    Returns:
        The smallest strength that meets the budget, but at most 4 times and at least a fourth of `rho`.
    """
    if applied <= 0:
        return rho
    low, high = np.log(rho / STRONGER), np.log(rho * STRONGER)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        factor = np.where(rates < 0, np.exp(middle) / applied, 1.0)
        if meets(gates + rates * factor * ahead):
            high = middle
        else:
            low = middle
    return float(np.exp(high))


def require_met(limits: Limits, sizes: Sizes) -> None:
    """Raise an error if the smallest network that a search can leave is above its budget.

    Args:
        limits: the budget.
        sizes: smallest sizes.

    Raises:
        InfeasibleBudget: they are above the budget.
    """
    if limits.excess(sizes) > 0:
        least = {cost.name: cost.total(sizes) for cost, _ in limits.terms}
        raise InfeasibleBudget(
            f"the groups with gates cannot reach the budget: {limits.describe(sizes)} when all of their units are "
            "removed that may be. Raise the budget, or allow more groups or smaller sizes",
            least,
        )


def require_alive(keep: Mapping[str, Mask], emptied: Collection[str], epoch: int, rho: float) -> None:
    """Raise an error if a group that the network needs has lost its last unit, or no unit is left.

    Args:
        keep: units that stay of each group, bool [units].
        emptied: groups that may lose all units, because a branch goes with them.
        epoch: number of epochs so far.
        rho: strength of the penalty.

    Raises:
        ModelError: one has, or none is left.
    """
    dying = next((name for name, part in keep.items() if not part.any() and name not in emptied), None)
    if dying is None and not any(part.any() for part in keep.values()):
        dying = next(iter(keep))
    if dying is not None:
        raise ModelError(
            f"the search stops after epoch {epoch}: all {len(keep[dying])} units of group {dying!r} are dead, and the "
            f"network cannot do without this group. The penalty is too strong: lower rho (now {rho:g}), give a budget, "
            "or leave this group out of the search"
        )
