"""Sizes that are best at given prices on the costs, while the prices converge."""

from __future__ import annotations

from collections.abc import Sequence

from edakari.core.budget import Limits
from edakari.core.protocols import Values
from edakari.core.space import Group, dense_sizes, legal_choices
from edakari.solve.prices import Prices
from edakari.solve.spend import Ledger, fits, loads, worth_of

__all__ = ["descend"]


def descend(groups: Sequence[Group], values: Values, limits: Limits, sweeps: int) -> dict[str, int]:
    """Start from the dense sizes; one group after the other takes the size that is worth most at the prices.

    Each group sees the true sizes of all others, so that costs that couple groups are never guessed. The prices move
    after every sweep, by ever smaller steps. Groups are asked from the network's end to its beginning, which in our
    measurements (`benchmarks/solvers.py`) ended in better sizes than the opposite order.

    Args:
        groups: what can be sized.
        values: value of each size, by group.
        limits: the budget; within reach.
        sweeps: passes over all groups.

    Returns:
        Of the sizes after each sweep that are within the limits, those of most value.
    """
    legal = {group.name: legal_choices(group) for group in groups}
    worths = {name: values[name][sizes] for name, sizes in legal.items()}
    best = {name: int(sizes[0]) for name, sizes in legal.items()}
    sizes = dense_sizes(groups)
    ledger = Ledger(limits, sizes)
    span = ledger.loads() - loads(limits, best)
    prices = Prices.start(worth_of(values, sizes) - worth_of(values, best), span)
    for _ in range(sweeps):
        for group in reversed(groups):
            net = worths[group.name] - prices.now @ ledger.totals(group, legal[group.name])
            size = int(legal[group.name][net.argmax()])
            if size != sizes[group.name]:
                sizes[group.name] = size
                ledger.move(group.name, size)
        if fits(limits, sizes):
            best = max(best, dict(sizes), key=lambda sizes: worth_of(values, sizes))
        prices = prices.after(loads(limits, sizes) > 1.0)
    return best
