"""Putting selectors into a network and taking them out again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from torch import nn

from edakari.core.plan import KeepTokens
from edakari.errors import ModelError, PlanError, nearest
from edakari.surgery.tokens.gate import GATE, TokenGate
from edakari.surgery.tokens.grid import GridGate, attach_grid
from edakari.surgery.tokens.layout import TokenLayout, grid_stages, token_layout
from edakari.surgery.tokens.merger import Merger
from edakari.surgery.tokens.package import PackageMode, PackageNorm
from edakari.surgery.tokens.selection import Selection, SelectionSettings
from edakari.surgery.tokens.selectors import MERGER, Site, build_selector, needs_attention
from edakari.surgery.tokens.state import Chain

__all__ = ["attach", "detach", "gates", "selections"]

PACKAGES: tuple[PackageMode, ...] = ("none", "merge", "add", "append")
NORMS: tuple[PackageNorm, ...] = ("mean", "sum")

V = TypeVar("V")


def attach(model: nn.Module, edits: Sequence[KeepTokens], example: Any, seed: int = 0) -> nn.Module:
    """Put selectors in front of blocks, in place.

    Args:
        model: a network without selectors; its blocks get gates as one more child each.
        edits: at most one for each block.
        example: an input as the network takes it.
        seed: of the selectors' first weights.

    Returns:
        The same network.

    Raises:
        ModelError: the network has no tokens, or holds selectors already.
        PlanError: an edit names no block, or keeps more tokens than come.
    """
    if any(True for _ in gates(model)):
        raise ModelError(f"this {type(model).__name__} holds token selectors already; take them off with detach first")
    stages = grid_stages(model, example)
    if stages:
        return attach_grid(model, edits, stages, seed)
    layout = token_layout(model, example)
    by_block = _checked(edits, layout)
    names = layout.names
    places = [names.index(block) for block in by_block]
    watched = [place - 1 for place in places if needs_attention(by_block[names[place]].selector) and place]
    biased = _position_biased(model, example, layout)
    merging = any(edit.selector == MERGER for edit in edits)
    start = min((*places, *watched))
    entering = layout.patches
    chain = Chain()
    like = next(model.parameters())
    for place in range(start, len(names)):
        edit = by_block.get(names[place])
        step = None
        if edit is not None:
            step = _step(edit, layout, place, entering, seed).to(like.device, like.dtype)
            entering = min(entering, edit.count)
        block = model.get_submodule(names[place])
        moved = place >= min(places)
        gate = TokenGate(
            block,
            layout.prefix + layout.patches,
            step,
            chain,
            first=place == start,
            last=place == len(names) - 1,
            watches=place in watched or (moved and (merging or biased)),
            drops=layout.dense and place == len(names) - 1,
        )
        gate.train(block.training)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Take all selectors out of a network, in place; it is bit by bit what it was without them."""
    for gate in list(gates(model)):
        gate.remove()
    return model


def gates(model: nn.Module) -> Iterator[TokenGate | GridGate]:
    """The gates of a network, in the order of its modules."""
    for path, module in model.named_modules():
        if isinstance(module, TokenGate | GridGate) and path.rpartition(".")[2] == GATE:
            yield module


def selections(model: nn.Module) -> dict[str, Selection]:
    """The selectors of a network by the block that they stand in front of."""
    return {
        gate.step.settings.block: gate.step
        for gate in gates(model)
        if isinstance(gate, TokenGate) and isinstance(gate.step, Selection)
    }


def _checked(edits: Sequence[KeepTokens], layout: TokenLayout) -> dict[str, KeepTokens]:
    """Edits by block, in the order of blocks."""
    known = {edit.block: edit for edit in edits}
    for edit in edits:
        if edit.block not in layout.names:
            close = nearest(edit.block, layout.names)
            hint = f"; did you mean {close!r}?" if close else f"; it has {len(layout.names)} blocks"
            raise PlanError(f"the plan prunes tokens at block {edit.block!r}, which the network does not have{hint}")
    if len(known) != len(edits):
        raise PlanError("the plan prunes tokens twice at one block; keep one edit for each block")
    before = layout.patches
    ordered = {name: known[name] for name in layout.names if name in known}
    for name, edit in ordered.items():
        if not 0 <= edit.count <= before:
            raise PlanError(f"the plan keeps {edit.count} tokens at block {name!r}, where {before} come")
        before = edit.count
    return ordered


def _step(edit: KeepTokens, layout: TokenLayout, place: int, entering: int, seed: int) -> nn.Module:
    options = dict(edit.settings)
    mode = options.pop("package", "none" if edit.selector in ("random", "dynamicvit") else "merge")
    norm = options.pop("package_norm", "mean")
    settings = SelectionSettings(
        block=edit.block,
        prefix=layout.prefix,
        patches=layout.patches,
        entering=entering,
        count=edit.count,
        package=_chosen(mode, PACKAGES, edit),
        package_norm=_chosen(norm, NORMS, edit),
        proportional=_chosen(options.pop("proportional", False), (False, True), edit),
    )
    if edit.selector == MERGER:
        if place == 0:
            raise PlanError("tokens are merged by the attention of the block before; block 0 has none")
        return Merger(settings)
    site = Site(layout.width, layout.blocks[place].heads, layout.patches, place)
    return Selection(build_selector(edit.selector, site, options, seed), settings)


def _chosen(value: object, known: tuple[V, ...], edit: KeepTokens) -> V:
    for each in known:
        if value == each:
            return each
    raise PlanError(f"the plan's edit at block {edit.block!r} has the setting {value!r} where one of {known} is known")


def _position_biased(model: nn.Module, example: Any, layout: TokenLayout) -> bool:
    """Whether blocks add a bias for each pair of tokens, which must follow the tokens."""
    dense = layout.prefix + layout.patches
    tables = (*dict(model.named_parameters()).items(), *dict(model.named_buffers()).items())
    return any("relative_position" in name or tuple(value.shape[-2:]) == (dense, dense) for name, value in tables)
