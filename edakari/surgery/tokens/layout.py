"""Where the tokens of a vision transformer are: its blocks, its prefix and its grid, found by running it once."""

from __future__ import annotations

import dataclasses as dc
import math
from typing import Any

from torch import nn

from edakari.errors import ModelError
from edakari.surgery.tokens.reductions import Reduction, Role
from edakari.surgery.tokens.watching import ModuleCall, Watched, chains, hands_on, watched

__all__ = ["MASK", "TokenBlock", "TokenLayout", "layout_of", "token_layout"]

MASK = "attn_mask"
"""What timm's blocks call that which they add to the logits of attention."""


@dc.dataclass(frozen=True, slots=True)
class TokenBlock:
    """One transformer block.

    Args:
        name: dotted path.
        heads: of its attention.
        takes_mask: whether it hands an argument `attn_mask` on to its attention.
        roles: of its means, sums, extrema and softmaxes.
    """

    name: str
    heads: int
    takes_mask: bool = False
    roles: tuple[Role, ...] = ()


@dc.dataclass(frozen=True, slots=True)
class TokenLayout:
    """How a network keeps its tokens: [prefix | patches], the same in front of each block.

    Args:
        blocks: in the order of execution.
        prefix: tokens at the front that stand for no patch: class, distillation, registers.
        grid: rows and columns of patches.
        width: channels of a token.
        dense: whether the largest of what is said of each patch goes into the output, as in LV-ViT.
        roles: of the means, sums, extrema and softmaxes that follow the blocks.
    """

    blocks: tuple[TokenBlock, ...]
    prefix: int
    grid: tuple[int, int]
    width: int
    dense: bool = False
    roles: tuple[Role, ...] = ()

    @property
    def patches(self) -> int:
        """Tokens that may be pruned."""
        return self.grid[0] * self.grid[1]

    @property
    def names(self) -> tuple[str, ...]:
        """Dotted paths of the blocks."""
        return tuple(block.name for block in self.blocks)


def token_layout(model: nn.Module, example: Any) -> TokenLayout:
    """The blocks of a network and the form of its tokens; nothing is looked up by class or name.

    Blocks are the children of one container that each take and give tensors of the same form [batch, tokens, channels]
    and hold an attention over all tokens; patches are the positions of the last convolution in front of them.

    Args:
        model: the network, as it came: without selectors.
        example: an input as the network takes it.

    Raises:
        ModelError: the network has no such tokens, or the attention of a block cannot be masked; names the block.
    """
    return layout_of(watched(model, example, MASK))


def layout_of(watch: Watched) -> TokenLayout:
    """The layout of a network whose forward pass was watched; see `token_layout`.

    Args:
        watch: of the pass; blocks that have a parameter `attn_mask` kept their arguments.
    """
    calls = _blocks(watch)
    _, tokens, width = calls[0].entering
    for entry in calls:
        if not any(shape[-1] == tokens for shape in entry.attentions):
            raise ModelError(
                f"the attention of block {entry.path!r} of {watch.kind} cannot be wrapped: none of its "
                f"{len(entry.attentions)} softmaxes and scaled dot products runs over its {tokens} tokens"
            )
    grid = _grid(watch, calls[0], tokens)
    patches = math.prod(grid)
    counts = range(patches, tokens + 1)
    blocks = tuple(
        TokenBlock(
            entry.path,
            _heads(entry, tokens),
            hands_on(watch, entry, MASK, tokens),
            tuple(_role(found, counts) for found in entry.reductions),
        )
        for entry in calls
    )
    largest = any(shape[1] in counts for shape in watch.largest)
    # behind the blocks a class token may join in front
    roles = tuple(_role(found, range(patches, tokens + 2)) for found in watch.reductions[calls[-1].before :])
    return TokenLayout(blocks, tokens - patches, grid, width, largest, roles)


def _role(found: Reduction, counts: range) -> Role:
    """Whether tokens lie along what is reduced; of two dimensions that might be theirs it is the second, as in blocks.

    Args:
        found: in the dense network.
        counts: how many tokens there may be, with the prefix or without.
    """
    shape, most = found.x.shape, counts.stop - 1
    tokens = found.dim > 0 and shape[found.dim] in counts
    if tokens and found.kind != "softmax" and len(shape) == 3 and found.dim == 2 and shape[1] in counts:
        tokens = shape[2] == most and shape[1] != most
    return Role(found.kind, len(shape), found.dim, tokens)


def _blocks(watch: Watched) -> list[ModuleCall]:
    """The calls of the blocks of the longest chain."""
    found, kind = list(chains(watch)), watch.kind
    if len({chain[0].entering[1] for chain in found if len(chain) > 1 and chain[0].attentions}) > 1:
        raise ModelError(
            f"{kind} puts its tokens on a grid between stages, so that they cannot be removed; 'spvit', 'dynamicvit' "
            "and 'random_tokens' let positions skip the MLPs of a stage instead (docs/explanation/tokens.md)"
        )
    calls = max(found, key=len, default=[])
    if len(calls) >= 2:
        return calls
    grids = [chain for chain in chains(watch, (4,)) if len(chain) > 1 and all(entry.attentions for entry in chain)]
    if grids:
        raise ModelError(
            f"the blocks of {kind}, from {grids[0][0].path!r} on, keep their patches on one grid, in tensors of shape "
            f"{grids[0][0].entering}: windows need every position, so that no token can be removed, and positions "
            "skip MLPs only in networks of several stages"
        )
    _refuse_several_forms(watch)
    raise ModelError(
        f"{kind} has no tokens to prune: no container in it holds blocks that take and give tensors of one form "
        "[batch, tokens, channels]; token pruning is for vision transformers"
    )


def _refuse_several_forms(watch: Watched) -> None:
    """Raise where the children of a container attend, but not all over tensors of one form."""
    by_container: dict[str, dict[tuple[int, ...], ModuleCall]] = {}
    for entry in watch.calls:
        container, _, name = entry.path.rpartition(".")
        if name.isdigit() and entry.attentions and len(entry.entering) == 3 and entry.entering == entry.leaving:
            by_container.setdefault(container, {}).setdefault(entry.entering, entry)
    for found in by_container.values():
        if len(found) > 1:
            shapes = ", ".join(f"{entry.path!r} has {shape}" for shape, entry in found.items())
            raise ModelError(
                f"the blocks of {watch.kind} work on tensors of several forms ({shapes}), so that its tokens are not "
                "the same in front of each block; they cannot be pruned"
            )


def _grid(watch: Watched, first: ModuleCall, tokens: int) -> tuple[int, int]:
    """Rows and columns of the last convolution in front of the blocks."""
    kind = watch.kind
    batch = watch.calls[0].entering[:1]
    if batch and first.entering[0] != batch[0]:
        raise ModelError(
            f"the first tensor that block {first.path!r} of {kind} takes has the shape {first.entering} for "
            f"{batch[0]} images: its first dimension does not hold images (it holds patches, windows or pixels of "
            "patches), so that no token can be removed from an image"
        )
    found = [
        entry.leaving[-2:]
        for entry in watch.calls
        if entry.convolution and entry.order < first.order and len(entry.leaving) == 4
    ]
    grids = [grid for grid in found if grid[0] * grid[1] <= tokens]
    if not grids:
        raise ModelError(f"{kind} has {tokens} tokens, but no convolution in front of its blocks tells their grid")
    return (int(grids[-1][0]), int(grids[-1][1]))


def _heads(entry: ModuleCall, tokens: int) -> int:
    """Heads of the attention of a block; images times heads may lie in one dimension."""
    shape = next(shape for shape in entry.attentions if shape[-1] == tokens)
    if len(shape) >= 3:
        return shape[1]
    return max(1, shape[0] // entry.entering[0])
