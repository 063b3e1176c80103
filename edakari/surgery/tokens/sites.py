"""Possible positions of selectors, for networks with one or several stages."""

from __future__ import annotations

import dataclasses as dc
from typing import Any

from torch import nn

from edakari.surgery.tokens.layout import MASK, TokenLayout, layout_of
from edakari.surgery.tokens.stages import GridStage, stages_of_pass
from edakari.surgery.tokens.watching import watched

__all__ = ["TokenSite", "TokenSites", "token_sites"]


@dc.dataclass(frozen=True, slots=True)
class TokenSite:
    """A block that can have a selector before it.

    Args:
        name: dotted path of the block.
        stage: index of its stage, from 0.
        prefix: number of tokens at the front that are not patches.
        grid: rows and columns of patches in the dense network.
    """

    name: str
    stage: int
    prefix: int
    grid: tuple[int, int]

    @property
    def patches(self) -> int:
        """Number of tokens that may be pruned."""
        return self.grid[0] * self.grid[1]


@dc.dataclass(frozen=True)
class TokenSites:
    """All blocks of a network in order. Each stage begins with all of its patches.

    Args:
        blocks: blocks in the order of execution.
    """

    blocks: tuple[TokenSite, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Dotted paths of the blocks."""
        return tuple(block.name for block in self.blocks)

    @property
    def staged(self) -> bool:
        """Whether there are several stages; then positions are skipped, not removed."""
        return self.blocks[-1].stage > 0

    @property
    def patches(self) -> tuple[int, ...]:
        """Number of patches at each block of the dense network."""
        return tuple(block.patches for block in self.blocks)

    def firsts(self) -> dict[str, int]:
        """Return the first block of each stage and its number of patches."""
        found: dict[int, TokenSite] = {}
        for block in self.blocks:
            found.setdefault(block.stage, block)
        return {block.name: block.patches for block in found.values()}

    def quarters(self) -> tuple[int, ...]:
        """Positions of the authors' selectors: after each quarter ([3, 6, 9] of 12), or in the middle of each stage."""
        depth = len(self.blocks)
        if not self.staged:
            return tuple(dict.fromkeys(max(1, depth * quarter // 4) for quarter in (1, 2, 3)))
        stages = [[p for p, block in enumerate(self.blocks) if block.stage == s] for s in range(depth)]
        return tuple(indices[len(indices) // 2] for indices in stages if len(indices) > 1)


def token_sites(model: nn.Module, example: Any) -> TokenSites:
    """Find the blocks of a network with one or several stages; see `token_layout` and `grid_stages`.

    There is no cache: each call runs the network once on meta tensors.

    Args:
        model: the network without selectors.
        example: an example input of the network.

    Raises:
        ModelError: the network has no tokens, or a block's attention cannot be masked; the message names the block.
    """
    watch = watched(model, example, MASK)
    stages = stages_of_pass(watch)
    return _staged(stages) if stages else _plain(layout_of(watch))


def _plain(layout: TokenLayout) -> TokenSites:
    return TokenSites(tuple(TokenSite(name, 0, layout.prefix, layout.grid) for name in layout.names))


def _staged(stages: tuple[GridStage, ...]) -> TokenSites:
    return TokenSites(
        tuple(
            TokenSite(block.name, number, stage.prefix, stage.grid)
            for number, stage in enumerate(stages)
            for block in stage.blocks
        )
    )
