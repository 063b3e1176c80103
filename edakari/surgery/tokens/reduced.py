"""Costs of a network by widths and numbers of tokens together, from the graph of the network with all tokens."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edakari.core.graph import Graph, Operator
from edakari.core.incremental_cost import IncrementalCost, incremental
from edakari.core.layout import Fixed, Layout
from edakari.core.protocols import Cost
from edakari.core.space import Group, Sizes
from edakari.errors import ModelError
from edakari.surgery.tokens.costs import tokens_at
from edakari.surgery.tokens.package_token import Packages
from edakari.surgery.tokens.sites import TokenSites

__all__ = ["ReducedCost", "kept_at", "reduced_graph", "require_one_stage"]

LINEAR = frozenset({"aten.linear", "aten.addmm", "aten.mm"})


@dc.dataclass(frozen=True)
class ReducedCost:
    """A counted cost of a network without its selectors, by widths and numbers of tokens; fulfils `Cost`.

    Args:
        graph: graph of the network with all tokens.
        sites: blocks of the network.
        packages: package tokens that selectors make.
        count: function from a graph to its cost.
        name: name in a budget.
        unit: unit of the total.
    """

    graph: Graph
    sites: TokenSites
    packages: Packages
    count: Callable[[Graph], Cost]
    name: str = "macs"
    unit: str = "MAC"

    def at(self, sizes: Sizes) -> Cost:
        """Return the cost of widths at fixed numbers of tokens.

        Args:
            sizes: number of patches at blocks, named by `tokens_at`; others are left out.
        """
        return self.count(reduced_graph(self.graph, self.sites, kept_at(self.sites, sizes, self.packages)))

    def total(self, sizes: Sizes) -> float:
        """See `Cost`."""
        return self.at(sizes).total(sizes)

    def curve(self, group: Group, sizes: Sizes) -> npt.NDArray[np.float64]:
        """See `Cost`."""
        return self.at(sizes).curve(group, sizes)

    def incremental(self, sizes: Sizes) -> IncrementalCost:
        """See `edakari.core.incremental_cost.IncrementallyCosted`; widths may change, numbers of tokens stay."""
        return incremental(self.at(sizes), sizes)


def kept_at(sites: TokenSites, tokens: Sizes, packages: Packages) -> tuple[int, ...]:
    """Return the number of patches and packages in each block.

    Args:
        sites: blocks of the network, which has one stage.
        tokens: number of patches at blocks with a selector.
        packages: package tokens that selectors make.
    """
    patches, made, found = sites.patches[0], 0, []
    for block in sites.names:
        kept = tokens.get(tokens_at(block), patches)
        if kept < patches:
            patches, made = kept, {"none": 0, "one": 1, "each": made + 1}[packages]
        found.append(patches + made)
    return tuple(found)


def require_one_stage(sites: TokenSites) -> None:
    """Raise an error for a network with several stages of tokens.

    Raises:
        ModelError: it has several.
    """
    if sites.staged:
        raise ModelError(
            f"tokens and widths share one budget in networks with one stage of tokens, such as ViT and DeiT; this one "
            f"has {len(sites.firsts())} stages, whose tokens are put back on a grid. Prune its widths alone, or its "
            "tokens alone by a token method"
        )


def reduced_graph(graph: Graph, sites: TokenSites, kept: Sequence[int]) -> Graph:
    """Return the graph of a network with fewer tokens in its blocks; it serves for costs alone.

    Args:
        graph: graph of the network with all tokens.
        sites: blocks of the network, which has one stage.
        kept: number of patches and packages in each block.
    """
    prefix, patches = sites.blocks[0].prefix, sites.patches[0]
    inside = {f"{block.name}.": index for index, block in enumerate(sites.blocks)}
    current, operators = -1, []
    for operator in graph.operators:
        own = next((index for path, index in inside.items() if f"{operator.module}.".startswith(path)), None)
        current = current if own is None else own
        left = patches if current < 0 else kept[current]
        operators.append(operator if left == patches else _shrunk(operator, prefix + patches, prefix + left))
    return dc.replace(graph, operators=tuple(operators))


def _shrunk(operator: Operator, dense: int, left: int) -> Operator:
    """An operator on fewer tokens; its multiply-accumulates grow with the tokens, or with their square."""

    def dims(each: Sequence[Layout]) -> tuple[Layout, ...]:
        return tuple(Fixed(left) if layout == Fixed(dense) else layout for layout in each)

    activations = operator.inputs[: len(operator.inputs) - len(operator.weights)]
    tokens = sum(layout == Fixed(dense) for each in activations for layout in each)
    power = min(tokens, 1 if operator.name in LINEAR else 2)
    return dc.replace(
        operator,
        outputs=tuple(map(dims, operator.outputs)),
        inputs=tuple(map(dims, operator.inputs)),
        macs=tuple((constant * left**power // dense**power, layouts) for constant, layouts in operator.macs),
    )
