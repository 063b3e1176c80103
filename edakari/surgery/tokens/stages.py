"""Stages of networks that put tokens back on a grid: blocks that share a grid, and their MLPs."""

from __future__ import annotations

import dataclasses as dc
import math
from typing import Any

from torch import nn

from edakari.errors import ModelError
from edakari.surgery.tokens.watching import ModuleCall, Watched, chains, watched

__all__ = ["GridBlock", "GridStage", "grid_stages", "stages_of_pass"]


@dc.dataclass(frozen=True, slots=True)
class GridBlock:
    """One block of a stage.

    Args:
        name: dotted path of the block.
        mlp: dotted path of its position-wise part.
        heads: number of heads of its attention.
    """

    name: str
    mlp: str
    heads: int


@dc.dataclass(frozen=True, slots=True)
class GridStage:
    """Blocks on one grid, in a network with several grids.

    Args:
        blocks: blocks in order.
        prefix: number of tokens at the front that have no position.
        grid: rows and columns of positions.
        width: channels of a position.
    """

    blocks: tuple[GridBlock, ...]
    prefix: int
    grid: tuple[int, int]
    width: int

    @property
    def patches(self) -> int:
        """Number of positions of the grid."""
        return self.grid[0] * self.grid[1]


def grid_stages(model: nn.Module, example: Any) -> tuple[GridStage, ...]:
    """Find the stages of a network that puts tokens back on a grid between them; empty for a single stage.

    Args:
        model: the network without selectors.
        example: an example input of the network.

    Raises:
        ModelError: there are several stages, but fewer than two have MLPs that can be skipped; names a block.
    """
    return stages_of_pass(watched(model, example))


def stages_of_pass(watch: Watched) -> tuple[GridStage, ...]:
    """Return the stages of a network from a recorded forward pass; see `grid_stages`."""
    found = [chain for chain in chains(watch, (3, 4)) if all(entry.attentions for entry in chain)]
    if len({chain[0].entering for chain in found}) < 2:
        return ()
    found.sort(key=lambda chain: chain[0].order)
    stages, reasons = [], []
    for chain in found:
        mlps = [_mlp(entry, watch) for entry in chain]
        reason = next((each.reason for each in mlps if each.reason), "")
        if reason:
            reasons.append(reason)
        else:
            stages.append(_stage(chain, [each.path for each in mlps], watch))
    if len(stages) < 2:
        raise ModelError(
            f"{watch.kind} has {len(found)} stages, so tokens cannot be removed, and fewer than two of the stages "
            f"have MLPs that can be skipped: {reasons[0]}"
        )
    return tuple(stages)


@dc.dataclass(frozen=True)
class _Mlp:
    """The position-wise part of a block, or the reason why it has none."""

    path: str = ""
    reason: str = ""


def _mlp(block: ModuleCall, watch: Watched) -> _Mlp:
    """Find the position-wise child of a block with the most weights."""
    positions, width = math.prod(block.entering[1:-1]), block.entering[-1]
    weights, reasons = {}, []
    for entry in watch.calls:
        if entry.path.rpartition(".")[0] != block.path or entry.attentions or entry.entering != entry.leaving:
            continue
        module = watch.shadow.get_submodule(entry.path)
        weight = sum(parameter.numel() for parameter in module.parameters())
        shape = entry.entering
        if not shape or weight <= 2 * width:  # skipping norms and scales saves nothing
            continue
        if shape[0] != block.entering[0] or shape[-1] != width or math.prod(shape[1:-1]) != positions:
            reasons.append((weight, f"{entry.path!r} sees {shape} where its block sees {block.entering}"))
        elif not entry.alone:
            reasons.append((weight, f"{entry.path!r} takes more than the tensor of its positions"))
        elif (spatial := _spatial(module)) is not None:
            reasons.append((weight, f"{entry.path!r} mixes positions by its {spatial}"))
        else:
            weights[entry.path] = weight
    if weights and max(weights.values()) >= max((weight for weight, _ in reasons), default=0):
        return _Mlp(max(weights, key=lambda path: weights[path]))
    if reasons:
        return _Mlp(reason=max(reasons)[1])
    return _Mlp(reason=f"no part of block {block.path!r} works position by position")


def _spatial(module: nn.Module) -> str | None:
    """Find an operation in a module that mixes positions, by its class and shape."""
    for part in module.modules():
        size = getattr(part, "kernel_size", 1)
        if max(size if isinstance(size, (tuple, list)) else (size,)) > 1:
            return type(part).__name__
    return None


def _stage(chain: list[ModuleCall], mlps: list[str], watch: Watched) -> GridStage:
    shape = chain[0].entering
    blocks = tuple(
        GridBlock(entry.path, mlp, max(each[1] if len(each) >= 3 else 1 for each in entry.attentions))
        for entry, mlp in zip(chain, mlps, strict=True)
    )
    if len(shape) == 4:
        return GridStage(blocks, 0, (shape[1], shape[2]), shape[-1])
    found = [entry.leaving[-2:] for entry in watch.calls if entry.convolution and entry.order < chain[0].order]
    grids = [(each[0], each[1]) for each in found if len(each) == 2 and each[0] * each[1] <= shape[1]]
    grid = grids[-1] if grids else (1, shape[1])
    return GridStage(blocks, shape[1] - math.prod(grid), grid, shape[-1])
