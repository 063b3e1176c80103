"""The cost of a vision transformer as a function of the number of patches at each block."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edakari.core.graph import Graph, Operator
from edakari.core.layout import extent
from edakari.core.space import Group, Sizes
from edakari.surgery.tokens.package_token import Packages

__all__ = ["TokenCost", "block_macs", "by_block", "interpolated", "quadratic", "tokens_at"]

Floats = npt.NDArray[np.float64]


def tokens_at(block: str) -> str:
    """Name of the group whose size is the number of patches that a block gets."""
    return f"{block}:tokens"


@dc.dataclass(frozen=True, eq=False)
class TokenCost:
    """Cost by the number of patches that each block gets; fulfils `Cost`.

    Sizes are named by `tokens_at`; a block that is not named passes on what comes. The total is a constant, and a scale
    times the sum of the blocks, the selectors and the rest.

    Args:
        name: in a budget.
        unit: of the total.
        blocks: dotted paths, in order.
        patches: of the dense network; in networks with stages, of the largest.
        packages: that selectors make.
        table: cost of each block at each number of patches and packages, float [blocks, patches + 1 + more].
        stages: blocks with which a stage begins, and its patches: all of them are there again.
        rest: cost of what is no block.
        selector: cost of a selector for each token that it looks at.
        constant: of every network.
        scale: factor of all but the constant.
    """

    name: str
    unit: str
    blocks: tuple[str, ...]
    patches: int
    packages: Packages
    table: Floats
    rest: float
    selector: float = 0.0
    constant: float = 0.0
    scale: float = 1.0
    stages: Mapping[str, int] = dc.field(default_factory=dict)

    def total(self, sizes: Sizes) -> float:
        """Cost at these numbers of patches."""
        patches, packages, total = self.patches, 0, self.rest
        for block, costs in zip(self.blocks, self.table, strict=True):
            if block in self.stages:
                patches, packages = self.stages[block], 0
            kept = sizes.get(tokens_at(block), patches)
            if kept < patches:
                total += self.selector * (patches + packages)
                patches = kept
                packages = {"none": 0, "one": 1, "each": packages + 1}[self.packages]
            total += float(costs[patches + packages])
        return self.constant + self.scale * total

    def curve(self, group: Group, sizes: Sizes) -> Floats:
        """Totals with one block at every number of patches."""
        return np.array([self.total({**sizes, group.name: size}) for size in range(group.size + 1)])

    def predict(self, sizes: Sizes) -> float:
        """Cost that a network of these sizes is expected to have; the total."""
        return self.total(sizes)

    def corrected(self, sizes: Sizes, measured: float) -> TokenCost:
        """The same cost scaled so that the total at some sizes is what was measured there."""
        return self.scaled(measured / self.total(sizes))

    def scaled(self, factor: float) -> TokenCost:
        """The same cost times a factor."""
        return dc.replace(self, constant=self.constant * factor, scale=self.scale * factor)


def block_macs(graph: Graph, blocks: Sequence[str], own: str) -> tuple[Floats, float, float]:
    """Multiply-accumulates of each block, of the selectors, and of all else.

    Args:
        graph: of a network at some number of tokens.
        blocks: dotted paths.
        own: name of the child in which a block keeps its selector.
    """

    def macs(operator: Operator) -> float:
        return float(
            sum(constant * math.prod(int(extent(x, {})) for x in layouts) for constant, layouts in operator.macs)
        )

    return by_block([(operator.module, macs(operator)) for operator in graph.operators], blocks, own)


def quadratic(last: Sequence[Floats], index: int | Sequence[int], most: int) -> Floats:
    """A quadratic through three successive points, at every place; exact for whole numbers.

    Args:
        last: values at `index`, one before, and two before, float [blocks] each.
        index: of the first; one for all, or for each block its own.
        most: largest place asked for.

    Returns:
        float [blocks, most + 1].
    """
    first, second, third = last
    step, bend = second - first, third - 2 * second + first
    back = np.asarray(index, np.float64)[..., None] - np.arange(most + 1, dtype=np.float64)
    return first[..., None] + back * step[..., None] + back * (back - 1) / 2 * bend[..., None]


def interpolated(points: Mapping[int, Floats], most: int) -> Floats:
    """Values between measured numbers of tokens, linear; beyond them the last slope goes on.

    Args:
        points: values by number of tokens, float [blocks] each; two at least.
        most: largest number asked for.

    Returns:
        float [blocks, most + 1].
    """
    counts = np.array(sorted(points), dtype=np.float64)
    values = np.stack([points[int(count)] for count in counts], axis=1)
    every = np.arange(most + 1, dtype=np.float64)
    index = np.clip(np.searchsorted(counts, every, side="right") - 1, 0, len(counts) - 2)
    share = (every - counts[index]) / (counts[index + 1] - counts[index])
    found: Floats = values[:, index] * (1 - share) + values[:, index + 1] * share
    return np.maximum(found, 0.0)


def by_block(costs: Sequence[tuple[str, float]], blocks: Sequence[str], own: str) -> tuple[Floats, float, float]:
    """Sums of costs over each block, over the selectors, and over all else.

    Args:
        costs: dotted paths of modules, and what each costs.
        blocks: dotted paths.
        own: name of the child in which a block keeps its selector.
    """
    found, selectors, rest = np.zeros(len(blocks)), 0.0, 0.0
    for module, cost in costs:
        index = next((p for p, block in enumerate(blocks) if f"{module}.".startswith(f"{block}.")), None)
        if index is None:
            rest += cost
        elif f"{module}.".startswith(f"{blocks[index]}.{own}."):
            selectors += cost
        else:
            found[index] += cost
    return found, selectors, rest
