"""Where selectors may stand, alike for networks with one form of tokens and for those with stages."""

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
    """A block in front of which a selector may stand.

    Args:
        name: dotted path.
        stage: that it is in, from 0.
        prefix: tokens at the front that stand for no patch.
        grid: rows and columns of the patches that come in the dense network.
    """

    name: str
    stage: int
    prefix: int
    grid: tuple[int, int]

    @property
    def patches(self) -> int:
        """Tokens that may be pruned."""
        return self.grid[0] * self.grid[1]


@dc.dataclass(frozen=True)
class TokenSites:
    """All blocks of a network, in order. A stage begins with all of its patches, whatever was pruned before.

    Args:
        blocks: in the order of execution.
    """

    blocks: tuple[TokenSite, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Dotted paths of the blocks."""
        return tuple(block.name for block in self.blocks)

    @property
    def staged(self) -> bool:
        """Whether there are several stages: then positions are skipped, and not removed."""
        return self.blocks[-1].stage > 0

    @property
    def patches(self) -> tuple[int, ...]:
        """Patches of each block in the dense network."""
        return tuple(block.patches for block in self.blocks)

    def firsts(self) -> dict[str, int]:
        """The first block of each stage, and its patches."""
        found: dict[int, TokenSite] = {}
        for block in self.blocks:
            found.setdefault(block.stage, block)
        return {block.name: block.patches for block in found.values()}

    def quarters(self) -> tuple[int, ...]:
        """Places of the authors' selectors: after each quarter, [3, 6, 9] of 12; in the middle of each stage."""
        depth = len(self.blocks)
        if not self.staged:
            return tuple(dict.fromkeys(max(1, depth * quarter // 4) for quarter in (1, 2, 3)))
        stages = [[p for p, block in enumerate(self.blocks) if block.stage == s] for s in range(depth)]
        return tuple(indices[len(indices) // 2] for indices in stages if len(indices) > 1)


def token_sites(model: nn.Module, example: Any) -> TokenSites:
    """The blocks of a network, which has one stage or several; see `token_layout` and `grid_stages`.

    Nothing is remembered of earlier calls: the network is run once, without data, as it is now.

    Args:
        model: the network, without selectors.
        example: an input as the network takes it.

    Raises:
        ModelError: the network has no tokens, or the attention of a block cannot be masked; names the block.
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
