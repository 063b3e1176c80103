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
    """Return the name of the group whose size is the number of patches at a block."""
    return f"{block}:tokens"


@dc.dataclass(frozen=True, eq=False)
class TokenCost:
    """Cost by the number of patches at each block; implements `Cost`.

    Sizes are named by `tokens_at`; an unnamed block gets as many patches as the block before. The total is `constant`
    plus `scale` times the sum over blocks, selectors and the rest.

    Args:
        name: name of the cost in a budget.
        unit: unit of the total.
        blocks: dotted paths of the blocks, in order.
        patches: number of patches of the dense network; of the largest stage if there are several.
        packages: package tokens that selectors make.
        table: cost of each block at each number of patches and packages, float [blocks, patches + 1 + more].
        stages: first block of each stage and the stage's number of patches; each stage starts with all patches.
        rest: cost of everything outside the blocks.
        selectors: cost of a selector before each block at each number of tokens that arrive, like `table`; None if they
            are not counted.
        constant: constant cost of every network.
        scale: factor of everything but the constant.
    """

    name: str
    unit: str
    blocks: tuple[str, ...]
    patches: int
    packages: Packages
    table: Floats
    rest: float
    selectors: Floats | None = None
    constant: float = 0.0
    scale: float = 1.0
    stages: Mapping[str, int] = dc.field(default_factory=dict)

    def total(self, sizes: Sizes) -> float:
        """Return the cost at these numbers of patches."""
        patches, packages, total = self.patches, 0, self.rest
        for index, (block, costs) in enumerate(zip(self.blocks, self.table, strict=True)):
            if block in self.stages:
                patches, packages = self.stages[block], 0
            kept = sizes.get(tokens_at(block), patches)
            if kept < patches:
                total += 0.0 if self.selectors is None else float(self.selectors[index, patches + packages])
                patches = kept
                packages = {"none": 0, "one": 1, "each": packages + 1}[self.packages]
            total += float(costs[patches + packages])
        return self.constant + self.scale * total

    def curve(self, group: Group, sizes: Sizes) -> Floats:
        """Return the totals for every number of patches at one block."""
        return np.array([self.total({**sizes, group.name: size}) for size in range(group.size + 1)])

    def predict(self, sizes: Sizes) -> float:
        """Return the predicted cost of a network of these sizes, which is the total."""
        return self.total(sizes)

    def weights(self, sizes: Sizes) -> float:
        """Millions of weights that depend on numbers of tokens: none."""
        return 0.0

    def corrected(self, sizes: Sizes, measured: float) -> TokenCost:
        """Return the cost scaled so that its total at some sizes equals a measurement."""
        return self.scaled(measured / self.total(sizes))

    def scaled(self, factor: float) -> TokenCost:
        """Return the cost times a factor."""
        return dc.replace(self, constant=self.constant * factor, scale=self.scale * factor)

    def named(self, name: str) -> TokenCost:
        """Return the cost under another name in a budget."""
        return dc.replace(self, name=name)


def block_macs(graph: Graph, blocks: Sequence[str], own: str) -> tuple[Floats, float, float]:
    """Count the MACs of each block, of the selectors, and of everything else.

    Args:
        graph: graph of a network at some number of tokens.
        blocks: dotted paths.
        own: name of the child in which a block keeps its selector.
    """

    def macs(operator: Operator) -> float:
        return float(
            sum(constant * math.prod(int(extent(x, {})) for x in layouts) for constant, layouts in operator.macs)
        )

    return by_block([(operator.module, macs(operator)) for operator in graph.operators], blocks, own)


def quadratic(last: Sequence[Floats], index: int | Sequence[int], most: int) -> Floats:
    """Evaluate a quadratic through three successive points at every integer; exact for integer values.

    Args:
        last: values at `index`, `index - 1` and `index - 2`, float [blocks] each.
        index: position of the first value; one for all blocks, or one for each block.
        most: largest integer to evaluate at.

    Returns:
        float [blocks, most + 1].
    """
    first, second, third = last
    step, bend = second - first, third - 2 * second + first
    back = np.asarray(index, np.float64)[..., None] - np.arange(most + 1, dtype=np.float64)
    return first[..., None] + back * step[..., None] + back * (back - 1) / 2 * bend[..., None]


def interpolated(points: Mapping[int, Floats], most: int) -> Floats:
    """Interpolate linearly between measured numbers of tokens, and extrapolate with the last slope.

    Args:
        points: values by number of tokens, float [blocks] each; at least two.
        most: largest number of tokens to evaluate at.

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
    """Sum costs over each block, over the selectors, and over everything else.

    Args:
        costs: dotted paths of modules and their costs.
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
