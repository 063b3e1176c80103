"""One-sided prices: what each size of a group costs while all other groups stay as they are.

A layer's cost is a product of what it reads and what it writes. To add prices up over groups, each layer's cost is
credited to the groups that it reads, to those that it writes, or in parts to both. Prices are right where the sizes
are; away from there they are not, as all groups move at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edakari.core.budget import Limits
from edakari.core.graph import Graph
from edakari.core.layout import Layout, extent
from edakari.core.protocols import Values
from edakari.core.space import Group, Sizes, legal_sizes
from edakari.errors import EdakariError, InfeasibleBudget
from edakari.methods.masking.consumers import names_in
from edakari.solve import solve_choices
from edakari.solve.spend import Array

__all__ = ["one_sided", "prices_of"]


def one_sided(
    graph: Graph, consumer_share: float, groups: Sequence[Group], values: Values, limits: Limits, sizes: Sizes
) -> Sizes:
    """The sizes of most value at one-sided prices; their true cost may lie above the budget.

    Args:
        graph: of the network.
        consumer_share: see `prices_of`.
        groups: what is sized.
        values: of each size.
        limits: the budget: multiply-accumulates alone.
        sizes: as they are.

    Returns:
        Legal sizes; the cheapest ones where the prices allow no others.

    Raises:
        EdakariError: the budget has other terms.
    """
    if [cost.name for cost, _ in limits.terms] != ["macs"]:
        raise EdakariError(
            "one-sided prices are for budgets of multiply-accumulates alone, found "
            f"{', '.join(cost.name for cost, _ in limits.terms)}; take pricing: coupled"
        )
    fixed, curves = prices_of(graph, consumer_share, groups, sizes)
    legal = [np.array(legal_sizes(group)) for group in groups]
    prices = [curves[group.name][choices] for group, choices in zip(groups, legal, strict=True)]
    worths = [values[group.name][choices] for group, choices in zip(groups, legal, strict=True)]
    try:
        picks = solve_choices(prices, worths, limits.terms[0][1] - fixed)
    except InfeasibleBudget:
        picks = [int(np.argmin(price)) for price in prices]
    return {group.name: int(choices[pick]) for group, choices, pick in zip(groups, legal, picks, strict=True)}


def prices_of(
    graph: Graph, consumer_share: float, groups: Sequence[Group], sizes: Sizes
) -> tuple[float, dict[str, Array]]:
    """What each size of each group costs with the others as they are.

    Args:
        graph: of the network.
        consumer_share: of the cost of a layer that reads and writes groups to be sized, the part that those pay which
            it reads; 1 leaves nothing to those that it writes.
        groups: what is sized.
        sizes: as they are.

    Returns:
        What no group pays, and the price of each size by group, float64 [size + 1], in multiply-accumulates. At the
        sizes as they are, all of it adds up to the network's cost.
    """
    sized = {group.name: group for group in groups}
    curves = {name: np.zeros(group.size + 1) for name, group in sized.items()}
    fixed = 0.0
    for constant, read, written, layouts in _layers(graph):
        whole = constant * float(np.prod([extent(layout, sizes) for layout in layouts]))
        readers = [name for name in read if name in sized]
        writers = [name for name in written if name in sized]
        share = consumer_share if writers else 1.0
        for names, part in ((readers, share), (writers, 1.0 - share)):
            if not names:
                fixed += part * whole
            for name in names:
                every = {**sizes, name: np.arange(sized[name].size + 1, dtype=np.float64)}
                extents = [np.broadcast_to(extent(layout, every), curves[name].shape) for layout in layouts]
                cost = constant * np.prod(extents, axis=0)
                curves[name] += part / len(names) * cost
    return fixed, curves


def _layers(graph: Graph) -> Iterator[tuple[int, Sequence[str], Sequence[str], Sequence[Layout]]]:
    """Of each term of each layer: its constant, the groups that it reads and those that it writes, and its layouts."""
    for index, operator in enumerate(graph.operators):
        written = names_in(*operator.outputs[0])
        branches = graph.enclosing_branches(index)
        for constant, layouts in operator.macs:
            # a layer from a group to itself has it twice: once is written
            names = names_in(*layouts, *branches)
            seen = [axis for layout in layouts for axis in names_in(layout)]
            read = [name for name in names if name not in written or seen.count(name) > 1]
            if not operator.weights or operator.settings.get("groups", 1) != 1:
                # lies on the axes that it passes on, which pay all of it
                read = read or list(names)
            yield constant, read, written, (*layouts, *branches)
