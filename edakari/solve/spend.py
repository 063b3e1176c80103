"""Functions for all allocators: check that a budget can be reached, and spend its remainder."""

from __future__ import annotations

import dataclasses as dc
import heapq
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edakari.core.budget import Limits
from edakari.core.incremental_cost import Ints, incremental
from edakari.core.protocols import Values
from edakari.core.space import Group, Sizes, dense_sizes, legal_choices, legal_sizes
from edakari.errors import EdakariError, InfeasibleBudget

__all__ = ["Array", "Ledger", "fill", "fits", "largest", "loads", "reachable", "require_within", "used_up", "worth_of"]

ENOUGH = 5e-4
"""Unused fraction of a limit at which spending stops."""
NEARLY = 0.97
"""Fraction of the next group's ratio from which a group grows. That ratio is an older one, and costs rise slowly."""
CLOSE = 1e-2
"""Largest fraction of a limit that allocators leave unused, if sizes allow."""

Array = npt.NDArray[np.float64]


def loads(limits: Limits, sizes: Sizes) -> Array:
    """Return each term's cost as a fraction of its limit, float64 [terms]; the budget is met if none is above 1."""
    return np.array([cost.total(sizes) / limit for cost, limit in limits.terms])


class Ledger:
    """Costs of sizes that change group by group, as fractions of their limits.

    Args:
        limits: the budget.
        sizes: initial size of each group.
    """

    def __init__(self, limits: Limits, sizes: Sizes) -> None:
        self.increments = [(incremental(cost, sizes), limit) for cost, limit in limits.terms]

    def loads(self) -> Array:
        """Return each term's cost as a fraction of its limit, float64 [terms]."""
        return np.array([each.total / limit for each, limit in self.increments])

    def totals(self, group: Group, choices: Ints) -> Array:
        """Return the loads with one group at each of some sizes, and the others unchanged.

        Args:
            group: the group.
            choices: sizes of the group, int64 [choices].

        Returns:
            float64 [terms, choices].
        """
        found = np.empty((len(self.increments), len(choices)))
        for row, (each, limit) in zip(found, self.increments, strict=True):
            np.divide(each.totals(group, choices), limit, out=row)
        return found

    def move(self, name: str, size: int) -> None:
        """Change the size of a group."""
        for each, _ in self.increments:
            each.move(name, size)


def fits(limits: Limits, sizes: Sizes) -> bool:
    """Whether sizes are within the limits."""
    return limits.excess(sizes) <= 0


def reachable(groups: Sequence[Group], values: Values, limits: Limits) -> Sizes | None:
    """Check the arguments of an allocator.

    Args:
        groups: groups to allocate.
        values: value of each size, float [size + 1] by group.
        limits: the budget.

    Returns:
        The dense sizes if they are within the limits, else None.

    Raises:
        EdakariError: a group has no values, or not size + 1 values.
        InfeasibleBudget: the smallest legal sizes are above a limit.
    """
    for group in groups:
        found = np.shape(values[group.name]) if group.name in values else None
        if found != (group.size + 1,):
            raise EdakariError(
                f"group {group.name!r} of size {group.size} needs {group.size + 1} values, one per number of kept "
                f"channels, but got {'none' if found is None else f'an array of shape {found}'}"
            )
    dense = dense_sizes(groups)
    if fits(limits, dense):
        return dense
    smallest = {group.name: legal_sizes(group)[0] for group in groups}
    require_within(limits, smallest, len(groups))
    return None


def require_within(limits: Limits, smallest: Sizes, groups: int) -> None:
    """Check that the smallest sizes are within the limits.

    Args:
        limits: the budget.
        smallest: smallest legal size of each group.
        groups: number of groups that may be cut, for the error.

    Raises:
        InfeasibleBudget: they are not; the error gives their costs.
    """
    if fits(limits, smallest):
        return
    least = {cost.name: float(cost.total(smallest)) for cost, _ in limits.terms}
    raise InfeasibleBudget(
        f"the budget cannot be reached with {groups} groups at their smallest legal sizes: "
        f"{limits.describe(smallest)}. Raise the budget, or allow smaller sizes.",
        least,
    )


def largest(limits: Limits, sizes_at: Callable[[int], Sizes], count: int) -> Sizes:
    """Find the largest sizes within the limits by bisection over an index.

    Args:
        limits: the budget.
        sizes_at: function from an index in [0, count] to sizes that grow with it; index 0 must be within the limits.
        count: largest index.

    Returns:
        The sizes of the largest index within the limits.
    """
    low, high = 0, count + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(limits, sizes_at(middle)) else (low, middle)
    return sizes_at(low)


@dc.dataclass(slots=True)
class _Offer:
    """A group that may grow, and its legal sizes."""

    group: Group
    legal: Ints


def fill(
    groups: Sequence[Group], values: Values, limits: Limits, sizes: Sizes, most: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Spend the rest of a budget, best value per true cost first, until no group can grow or almost nothing is left.

    A group's cost is that of the term which the growth brings nearest to its limit. All terms count by what is left of
    them, relative to the scarcest one.

    This is a lazy greedy search: the ratio of a group is computed again only when the group comes first, because ratios
    rarely improve. A group that cannot grow is dropped, because costs do not fall when other groups grow.

    Args:
        groups: groups that may grow.
        values: value of each size, by group.
        limits: the budget.
        sizes: legal sizes within the limits.
        most: largest size by group; a group that is not named may grow to its dense size.

    Returns:
        Sizes at least as large, within the limits.
    """
    spent, ledger = dict(sizes), Ledger(limits, sizes)
    most = most or {}
    offers = []
    for group in groups:
        legal = legal_choices(group)
        offers.append(_Offer(group, legal[legal <= most.get(group.name, group.size)]))
    # ordered by value per cost, as last computed, and by index
    queue = [(-np.inf, index) for index in range(len(offers))]
    while queue:
        _, index = heapq.heappop(queue)
        rival = -queue[0][0] if queue else -np.inf
        name = offers[index].group.name
        step = _step(offers[index], values[name], ledger, spent[name], rival)
        if step is None:
            continue
        heapq.heappush(queue, (-step.ratio, index))
        if step.ratio >= NEARLY * rival:
            spent[name] = step.size
            ledger.move(name, step.size)
            if step.load > 1.0 - ENOUGH:
                break
    return spent


def used_up(groups: Sequence[Group], values: Values, limits: Limits, sizes: Sizes) -> dict[str, int]:
    """Run `fill`; if much of the budget is left because no next size fits, also shrink one group in favour of others.

    The shrunken group keeps at least one channel.

    Args:
        groups: groups that may grow or shrink.
        values: value of each size, float [size + 1] by group.
        limits: the budget.
        sizes: legal sizes within the limits.

    Returns:
        Sizes within the limits: those of highest value that leave little unused, or the result of `fill`.
    """
    full = fill(groups, values, limits, sizes)
    if limits.excess(full) > -CLOSE:
        return full
    found = []
    for group in groups:
        smaller = [size for size in legal_sizes(group) if 0 < size < full[group.name]][-1:]
        for size in smaller:
            others = [other for other in groups if other is not group]
            other = fill(others, values, limits, {**full, group.name: size})
            if limits.excess(other) > -CLOSE:
                found.append(other)
    return max(found, key=lambda sizes: worth_of(values, sizes), default=full)


def worth_of(values: Values, sizes: Sizes) -> float:
    """Return the sum of the values of sizes."""
    return float(sum(values[name][size] for name, size in sizes.items()))


@dc.dataclass(frozen=True, slots=True)
class _Step:
    """The growth of a group: new size, value per cost (see `fill`), and largest load afterwards."""

    size: int
    ratio: float
    load: float


def _step(offer: _Offer, value: Array, ledger: Ledger, now: int, rival: float) -> _Step | None:
    larger = offer.legal[offer.legal.searchsorted(now, side="right") :]
    if not len(larger):
        return None
    curves = ledger.totals(offer.group, larger)
    highest = np.maximum.reduce(curves, axis=0)
    count = int(np.count_nonzero(highest <= 1.0))
    if not count:
        return None
    larger, curves, here = larger[:count], curves[:, :count], ledger.loads()[:, None]
    left = np.maximum(1.0 - here, 1e-12)
    # relative to the scarcest term, so that the prices of other groups do not change whenever the budget is spent
    price = np.maximum(np.maximum.reduce((curves - here) * (np.minimum.reduce(left) / left), axis=0), 1e-15)
    gain = value[larger] - value[now]
    ratio = gain / price
    best = int(ratio.argmax())
    # Grow beyond the best size while each further step alone beats the ratio of every other group.
    gains, prices = gain[best:], price[best:]
    further = (gains[1:] - gains[:-1]) / np.maximum(prices[1:] - prices[:-1], 1e-15) >= max(rival, 0.0)
    chosen = best + (len(further) if further.all() else int(further.argmin()))
    return _Step(int(larger[chosen]), float(ratio[best]), float(highest[chosen]))
