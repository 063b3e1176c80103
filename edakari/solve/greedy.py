"""Greedy descent: each step cuts the group whose candidate scores best."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from edakari.core.budget import Limits
from edakari.core.space import Group, Sizes, dense_sizes, legal_sizes
from edakari.errors import EdakariError, InfeasibleBudget
from edakari.solve.spend import Array, fits

__all__ = ["AcceptedStep", "Candidate", "GreedyDescent", "ScoreCandidates", "kept_count"]

ROUNDING = 1e-9
"""How far a fraction of a size may lie above an integer by rounding alone."""


@dc.dataclass(frozen=True, slots=True)
class Candidate:
    """A group and the size to which the next step may cut it.

    Args:
        group: name.
        size: new size.
        last: whether this size meets the limits; it is then the largest size that does.
    """

    group: str
    size: int
    last: bool


@dc.dataclass(frozen=True, slots=True)
class AcceptedStep:
    """One step of a descent.

    Args:
        group: the group that was cut.
        size: its new size.
        value: score of the chosen candidate.
        candidates: all candidates that were scored; equal candidates after equal steps give an equal step.
    """

    group: str
    size: int
    value: float
    candidates: tuple[Candidate, ...]


ScoreCandidates = Callable[[Sizes, Sequence[Candidate]], tuple[int, float]]
"""A function from current sizes and candidates to the index of the best candidate and its score."""


@dc.dataclass(frozen=True)
class GreedyDescent:
    """Cut groups step by step until the limits are met, overshooting by at most one size of the last group.

    Args:
        steps: fraction of each group that one step removes.
    """

    steps: Mapping[str, float]

    def search(
        self, groups: Sequence[Group], limits: Limits, score: ScoreCandidates, known: Sequence[AcceptedStep] = ()
    ) -> Iterator[tuple[Sizes, AcceptedStep]]:
        """Iterate over the accepted steps and the sizes after each; the last sizes are within the limits.

        Args:
            groups: groups that may be cut.
            limits: the budget.
            score: scores the candidates; it is called once for each step that is not known.
            known: steps of an earlier descent; they are replayed while their candidates stay the same.

        Raises:
            InfeasibleBudget: the limits cannot be met.
        """
        sizes = dense_sizes(groups)
        replay = list(known)
        while not fits(limits, sizes):
            candidates = tuple(found for group in groups if (found := self.next(group, limits, sizes)) is not None)
            if not candidates:
                raise _out_of_reach(groups, limits, sizes)
            step = replay.pop(0) if replay else None
            if step is None or step.candidates != candidates:
                replay = []
                index, value = score(sizes, candidates)
                step = AcceptedStep(candidates[index].group, candidates[index].size, value, candidates)
            sizes = {**sizes, step.group: step.size}
            yield sizes, step

    def next(self, group: Group, limits: Limits, sizes: Sizes) -> Candidate | None:
        """Return the next cut of a group; None if no smaller size lowers a cost that is above its limit.

        Args:
            group: group to cut.
            limits: the budget.
            sizes: current size of each group.
        """
        now = sizes[group.name]
        below = [size for size in legal_sizes(group) if size < now][::-1]
        if not below:
            return None
        overrun = _overrun(limits, group, sizes)
        target = next_target(group.size, self.steps[group.name], now)
        first = max((index for index, size in enumerate(below) if size >= target), default=0)
        for size in below[first:]:
            if overrun[size] == 0.0:
                return Candidate(group.name, next(size for size in below if overrun[size] == 0.0), True)
            if overrun[size] < overrun[now]:
                return Candidate(group.name, size, False)
        return None


def kept_count(size: int, rate: float) -> int:
    """Return the number of channels in a fraction of a group: rounded up, and at least one.

    Args:
        size: number of channels of the group.
        rate: fraction of the channels.
    """
    return max(1, math.ceil(size * rate - ROUNDING))


def next_target(size: int, step: float, now: int) -> int:
    """Return the largest size below the current one if a group is cut by equal fractions of its full size.

    Args:
        size: full size of the group.
        step: fraction of the full size that one step removes.
        now: current size.

    Raises:
        EdakariError: the step is not above 0.
    """
    if step <= 0:
        raise EdakariError(f"a step must be above 0, but got {step}")
    index = 1
    while (count := kept_count(size, max(0.0, 1.0 - index * step))) >= now and count > 1:
        index += 1
    return count


def _overrun(limits: Limits, group: Group, sizes: Sizes) -> Array:
    """Sum of the fractions by which costs exceed their limits, with one group at every size, float64 [size + 1]."""
    loads = np.stack([cost.curve(group, sizes) / limit for cost, limit in limits.terms])
    over: Array = np.maximum(loads - 1.0, 0.0).sum(axis=0)
    return over


def _out_of_reach(groups: Sequence[Group], limits: Limits, sizes: Sizes) -> InfeasibleBudget:
    least = {cost.name: float(cost.total(sizes)) for cost, _ in limits.terms}
    return InfeasibleBudget(
        f"the budget cannot be reached: no cut of the {len(groups)} groups lowers the cost further, at "
        f"{limits.describe(sizes)}. Raise the budget, or allow smaller sizes.",
        least,
    )
