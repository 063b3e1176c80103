"""One-sided prices: the cost of each size of a group while all other groups keep their sizes.

A layer's cost is the product of its input and output sizes. To make prices additive over groups, each layer's cost is
attributed to the groups that it reads, to those that it writes, or in parts to both. Prices are exact only at the
current sizes, because in an allocation all groups change at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

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
    """Return the sizes of highest value at one-sided prices; their true cost may exceed the budget.

    Humble et al., ECCV 2022.

    Args:
        graph: graph of the network.
        consumer_share: see `prices_of`.
        groups: groups to allocate.
        values: value of each size, float [size + 1] by group.
        limits: the budget, with multiply-accumulates as its only term.
        sizes: current size of each group.

    Returns:
        Legal sizes; the cheapest ones if the prices allow no others.

    Raises:
        EdakariError: the budget has other terms.
    """
    if [cost.name for cost, _ in limits.terms] != ["macs"]:
        raise EdakariError(
            "one-sided prices need a budget of multiply-accumulates alone, but the budget names "
            f"{', '.join(cost.name for cost, _ in limits.terms)}; set pricing: coupled"
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
    """Compute the price of each size of each group while the other groups keep their sizes.

    Args:
        graph: graph of the network.
        consumer_share: fraction of a layer's cost that the groups it reads pay; the groups it writes pay the rest. If a
            layer writes no group to allocate, the groups it reads pay all of its cost.
        groups: groups to allocate.
        sizes: current size of each group.

    Returns:
        The cost that no group pays, and the price of each size by group, float64 [size + 1], in multiply-accumulates.
        At the current sizes, the sum of all of these is the network's cost.
    """
    sized = {group.name: group for group in groups}
    curves = {name: np.zeros(group.size + 1) for name, group in sized.items()}
    fixed = 0.0
    for constant, read, written, layouts in _layers(graph, sized):
        total = constant * float(np.prod([extent(layout, sizes) for layout in layouts]))
        readers = [name for name in read if name in sized]
        writers = [name for name in written if name in sized]
        fraction = consumer_share if writers else 1.0
        for names, part in ((readers, fraction), (writers, 1.0 - fraction)):
            if not names:
                fixed += part * total
            for name in names:
                every = {**sizes, name: np.arange(sized[name].size + 1, dtype=np.float64)}
                extents = [np.broadcast_to(extent(layout, every), curves[name].shape) for layout in layouts]
                cost = constant * np.prod(extents, axis=0)
                curves[name] += part / len(names) * cost
    return fixed, curves


def _layers(
    graph: Graph, sized: Collection[str]
) -> Iterator[tuple[int, Sequence[str], Sequence[str], Sequence[Layout]]]:
    """For each term of each layer: its constant, the groups that it reads, those that it writes, and its layouts."""
    for index, operator in enumerate(graph.operators):
        written = names_in(*operator.outputs[0])
        around = graph.enclosing_branches(index)
        # a branch or path that is not allocated pays nothing, but its size still counts
        allocated = [branch for branch in around if branch.group in sized]
        for constant, layouts in operator.macs:
            # a layer that reads and writes the same group has it twice
            names = names_in(*layouts, *allocated)
            seen = [axis for layout in layouts for axis in names_in(layout)]
            read = [name for name in names if name not in written or seen.count(name) > 1]
            if not operator.weights or operator.settings.get("groups", 1) != 1:
                # acts on each channel alone, so the groups that it passes on pay all of its cost
                read = read or list(names)
            yield constant, read, written, (*layouts, *around)
