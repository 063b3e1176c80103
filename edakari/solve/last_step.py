"""The last of many steps, shortened so that it ends just within the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edakari.core.budget import Limits
from edakari.core.space import Group, Scores, Sizes, legal_sizes
from edakari.errors import InfeasibleBudget

__all__ = ["shortened"]

HALVINGS = 30


def shortened(groups: Sequence[Group], sizes: Sizes, proposed: Sizes, scores: Scores, limits: Limits) -> dict[str, int]:
    """Return sizes between the current and the proposed ones that meet the limits as closely as legal sizes allow.

    Bisects the line from the current to the proposed sizes, and beyond these to the smallest legal sizes. Then groups
    grow again by single steps, those with the best-scored channels first, while the limits hold.

    Args:
        groups: the groups that may be sized.
        sizes: current size of each group.
        proposed: size of each group after the unshortened step.
        scores: score of each current channel, float [size], by group.
        limits: the limits that the result has to meet.

    Raises:
        InfeasibleBudget: the smallest legal sizes are not within the limits.
    """
    least = {group.name: legal_sizes(group)[0] for group in groups}

    def at(fraction: float) -> dict[str, int]:
        found = {}
        for group in groups:
            now, then, end = sizes[group.name], proposed[group.name], least[group.name]
            wanted = now - fraction * (now - then) if fraction <= 1 else then - (fraction - 1) * (then - end)
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
    return _grown_again(groups, sizes, at(high), scores, limits)


def _grown_again(
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
