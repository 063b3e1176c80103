"""Layout of the tokens of a vision transformer: blocks, prefix and grid, found by running it once."""

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
"""Name of the argument of timm's blocks that is added to the attention logits."""


@dc.dataclass(frozen=True, slots=True)
class TokenBlock:
    """One transformer block.

    Args:
        name: dotted path of the block.
        heads: number of heads of its attention.
        takes_mask: whether it passes an argument `attn_mask` to its attention.
        roles: roles of its means, sums, extrema and softmaxes.
    """

    name: str
    heads: int
    takes_mask: bool = False
    roles: tuple[Role, ...] = ()


@dc.dataclass(frozen=True, slots=True)
class TokenLayout:
    """Layout of a network's tokens: [prefix | patches], the same before each block.

    Args:
        blocks: blocks in the order of execution.
        prefix: number of tokens at the front that are not patches: class, distillation, registers.
        grid: rows and columns of patches.
        width: channels of a token.
        dense: whether the output includes a maximum over the outputs of all patches, as in LV-ViT.
        roles: roles of the means, sums, extrema and softmaxes after the blocks.
        pooled: whether a mean, a sum, a softmax or an attention over patches follows the blocks.
    """

    blocks: tuple[TokenBlock, ...]
    prefix: int
    grid: tuple[int, int]
    width: int
    dense: bool = False
    roles: tuple[Role, ...] = ()
    pooled: bool = False

    @property
    def patches(self) -> int:
        """Number of tokens that may be pruned."""
        return self.grid[0] * self.grid[1]

    @property
    def names(self) -> tuple[str, ...]:
        """Dotted paths of the blocks."""
        return tuple(block.name for block in self.blocks)


def token_layout(model: nn.Module, example: Any) -> TokenLayout:
    """Find the blocks of a network and the layout of its tokens, independent of class and module names.

    Blocks are children of one container. Each of them takes and returns tensors of the same shape [batch, tokens,
    channels] and contains an attention over all tokens. Patches are the positions of the last convolution before them.

    Args:
        model: the original network without selectors.
        example: an example input of the network.

    Raises:
        ModelError: the network has no such tokens, or a block's attention cannot be masked; names the block.
    """
    return layout_of(watched(model, example, MASK))


def layout_of(watch: Watched) -> TokenLayout:
    """Return the layout of a network from a recorded forward pass; see `token_layout`.

    Args:
        watch: record of the pass; blocks with a parameter `attn_mask` have stored their arguments.
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
    # after the blocks a class token may be added at the front
    roles = tuple(_role(found, range(patches, tokens + 2)) for found in watch.reductions[calls[-1].before :])
    pooled = _attends_after(watch, calls[-1]) or any(
        role.tokens and role.kind in ("mean", "sum", "softmax") for role in roles
    )
    return TokenLayout(blocks, tokens - patches, grid, width, largest, roles, pooled)


def _attends_after(watch: Watched, last: ModuleCall) -> bool:
    """Whether a module that is called after the last block contains an attention."""
    after = [entry for entry in watch.calls if entry.order > last.order]
    return any(entry.attentions and not f"{entry.path}.".startswith(f"{last.path}.") for entry in after)


def _role(found: Reduction, counts: range) -> Role:
    """Return whether a reduction is along tokens; of two candidate dimensions, the second holds tokens.

    Args:
        found: the reduction in the dense network.
        counts: possible numbers of tokens, with or without the prefix.
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
            f"{kind} puts its tokens on a grid between stages, so they cannot be removed; 'spvit', 'dynamicvit' "
            "and 'random_tokens' can make positions skip the MLPs of a stage instead (docs/explanation/tokens.md)"
        )
    calls = max(found, key=len, default=[])
    if len(calls) >= 2:
        return calls
    grids = [chain for chain in chains(watch, (4,)) if len(chain) > 1 and all(entry.attentions for entry in chain)]
    if grids:
        raise ModelError(
            f"the blocks of {kind}, from {grids[0][0].path!r} on, keep their patches on one grid, in tensors of shape "
            f"{grids[0][0].entering}: windows need every position, so no token can be removed; and positions can "
            "skip MLPs only in networks with several stages"
        )
    _refuse_several_forms(watch)
    raise ModelError(
        f"{kind} has no tokens to prune: no container in it has blocks that take and return tensors of one shape "
        "[batch, tokens, channels]; token pruning is for vision transformers"
    )


def _refuse_several_forms(watch: Watched) -> None:
    """Raise an error if the children of a container have attentions over tensors of several shapes."""
    by_container: dict[str, dict[tuple[int, ...], ModuleCall]] = {}
    for entry in watch.calls:
        container, _, name = entry.path.rpartition(".")
        if name.isdigit() and entry.attentions and len(entry.entering) == 3 and entry.entering == entry.leaving:
            by_container.setdefault(container, {}).setdefault(entry.entering, entry)
    for found in by_container.values():
        if len(found) > 1:
            shapes = ", ".join(f"{entry.path!r} has {shape}" for shape, entry in found.items())
            raise ModelError(
                f"the blocks of {watch.kind} work on tensors of several shapes ({shapes}), so its tokens are not "
                "the same before each block and cannot be pruned"
            )


def _grid(watch: Watched, first: ModuleCall, tokens: int) -> tuple[int, int]:
    """Rows and columns of the last convolution before the blocks."""
    kind = watch.kind
    batch = watch.calls[0].entering[:1]
    if batch and first.entering[0] != batch[0]:
        raise ModelError(
            f"the first tensor that block {first.path!r} of {kind} takes has the shape {first.entering} for "
            f"{batch[0]} images: its first dimension does not hold images (it holds patches, windows or pixels of "
            "patches), so no token can be removed from an image"
        )
    found = [
        entry.leaving[-2:]
        for entry in watch.calls
        if entry.convolution and entry.order < first.order and len(entry.leaving) == 4
    ]
    grids = [grid for grid in found if grid[0] * grid[1] <= tokens]
    if not grids:
        raise ModelError(f"{kind} has {tokens} tokens, but no convolution before its blocks shows their grid")
    return (int(grids[-1][0]), int(grids[-1][1]))


def _heads(entry: ModuleCall, tokens: int) -> int:
    """Number of heads of a block's attention; images times heads may be one dimension."""
    shape = next(shape for shape in entry.attentions if shape[-1] == tokens)
    if len(shape) >= 3:
        return shape[1]
    return max(1, shape[0] // entry.entering[0])
