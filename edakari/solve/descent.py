"""Coordinate descent: each group takes its best size at prices on the costs, while the prices converge."""

from __future__ import annotations

from collections.abc import Sequence

from edakari.core.budget import Limits
from edakari.core.protocols import Values
from edakari.core.space import Group, dense_sizes, legal_choices
from edakari.solve.prices import Prices
from edakari.solve.spend import Ledger, fits, loads, worth_of

__all__ = ["descend"]


def descend(groups: Sequence[Group], values: Values, limits: Limits, sweeps: int) -> dict[str, int]:
    """Start from the dense sizes, and give each group in succession its size of highest net value at the prices.

    The cost of each size is exact, because the sizes of all other groups are known. The prices change after every
    sweep, by ever smaller steps. A sweep goes from the network's end to its beginning, which in our measurements
    (`benchmarks/solvers.py`) led to better sizes than the opposite order.

    Args:
        groups: groups to allocate.
        values: value of each size, float [size + 1] by group.
        limits: the budget; the smallest legal sizes must be within it.
        sweeps: number of passes over all groups.

    Returns:
        The sizes of highest value among those after each sweep that are within the limits.
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
