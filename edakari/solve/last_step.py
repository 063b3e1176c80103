"""Landing on a budget: the last of many steps is shortened so that little of the budget is left unused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edakari.core.budget import Limits
from edakari.core.space import Group, Scores, Sizes, legal_sizes
from edakari.errors import InfeasibleBudget

__all__ = ["landed"]

HALVINGS = 30


def landed(groups: Sequence[Group], sizes: Sizes, proposed: Sizes, scores: Scores, limits: Limits) -> dict[str, int]:
    """Sizes within limits on the way from some sizes to others, as near to the limits as legal sizes allow.

    The way goes on from what is proposed to the smallest legal sizes, for limits that lie beyond. Then single steps are
    given back where the best-scored channels would come, as long as the limits hold.

    Args:
        groups: that may be sized.
        sizes: of all of them, as they are.
        proposed: of all of them, where the step leads to.
        scores: of the channels of each group as it is.
        limits: what the result has to keep to.

    Raises:
        InfeasibleBudget: the smallest legal sizes are not within the limits.
    """
    least = {group.name: legal_sizes(group)[0] for group in groups}

    def at(way: float) -> dict[str, int]:
        found = {}
        for group in groups:
            now, then, end = sizes[group.name], proposed[group.name], least[group.name]
            wanted = now - way * (now - then) if way <= 1 else then - (way - 1) * (then - end)
            found[group.name] = max(size for size in (end, *legal_sizes(group)) if size <= max(wanted, end))
        return found

    if limits.excess(at(2.0)) > 0:
        raise InfeasibleBudget(
            f"the budget cannot be reached with {len(groups)} groups at their smallest legal sizes: "
            f"{limits.describe(at(2.0))}. Raise the budget, or allow smaller sizes.",
            {cost.name: float(cost.total(at(2.0))) for cost, _ in limits.terms},
        )
    low, high = 0.0, 2.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if limits.excess(at(middle)) <= 0 else (middle, high)
    return _given_back(groups, sizes, at(high), scores, limits)


def _given_back(
    groups: Sequence[Group], sizes: Sizes, found: Mapping[str, int], scores: Scores, limits: Limits
) -> dict[str, int]:
    result = dict(found)
    falling = {group.name: sorted(scores[group.name].tolist(), reverse=True) for group in groups}
    steps = {group.name: [size for size in legal_sizes(group) if size <= sizes[group.name]] for group in groups}
    closed: set[str] = set()
    while True:
        open_to = {}
        for name, legal in steps.items():
            larger = next((size for size in legal if size > result[name]), None)
            if name not in closed and larger is not None:
                open_to[name] = larger
        if not open_to:
            return result
        best = max(open_to, key=lambda name: (sum(falling[name][result[name] : open_to[name]]), name))
        if limits.excess({**result, best: open_to[best]}) <= 0:
            result[best] = open_to[best]
        else:
            closed.add(best)
