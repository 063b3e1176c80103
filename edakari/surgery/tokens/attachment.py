"""Attaching selectors to a network, and detaching them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from edakari.core.plan import KeepTokens
from edakari.errors import ModelError, PlanError, nearest
from edakari.surgery.tokens.check import Places, check_masking
from edakari.surgery.tokens.gate import GATE, GateSettings, TokenGate
from edakari.surgery.tokens.grid import GridGate, attach_grid
from edakari.surgery.tokens.layout import MASK, TokenLayout, layout_of
from edakari.surgery.tokens.merger import Merger
from edakari.surgery.tokens.package_token import PackageMode, PackageNorm
from edakari.surgery.tokens.selection import Selection, SelectionSettings
from edakari.surgery.tokens.selectors import MERGER, Site, build_selector, needs_attention
from edakari.surgery.tokens.stages import stages_of_pass
from edakari.surgery.tokens.state import Chain
from edakari.surgery.tokens.unmerging import UNMERGES
from edakari.surgery.tokens.watching import watched

__all__ = ["attach", "detach", "gates", "insert", "selections"]

PACKAGES: tuple[PackageMode, ...] = ("none", "merge", "add", "append")
NORMS: tuple[PackageNorm, ...] = ("mean", "sum")

V = TypeVar("V")


def attach(model: nn.Module, edits: Sequence[KeepTokens], example: Any, seed: int = 0) -> nn.Module:
    """Attach selectors before blocks, in place.

    First, a copy of the network runs with masked tokens and with removed tokens; both must give the same outputs.

    Args:
        model: a network without selectors; each block gets a gate as an additional child.
        edits: edits of the plan, at most one for each block.
        example: an example input of the network.
        seed: seed of the selectors' initial weights.

    Returns:
        The same network.

    Raises:
        ModelError: the network has no tokens or already has selectors, or masked and removed tokens give different
            outputs; the message names the block. The network is unchanged.
        PlanError: an edit names an unknown block, or keeps more tokens than arrive there.
    """
    insertion = _insertion(model, edits, example, seed)
    if edits and not any(parameter.is_meta for parameter in model.parameters()):
        check_masking(model, insertion.put, insertion.indices, example)
    return insertion.put(model)


def insert(model: nn.Module, edits: Sequence[KeepTokens], example: Any) -> nn.Module:
    """Attach selectors as `attach` does, without its check: for copies of networks that passed it.

    Args:
        model: as for `attach`; it may be on the meta device.
        edits: as for `attach`.
        example: as for `attach`.
    """
    return _insertion(model, edits, example, 0).put(model)


@dc.dataclass(frozen=True)
class _Insertion:
    """Function that attaches the selectors of a plan to a network, or to a copy of it."""

    put: Callable[[nn.Module], nn.Module]
    indices: Places


def _insertion(model: nn.Module, edits: Sequence[KeepTokens], example: Any, seed: int) -> _Insertion:
    """Check the edits, and return the function that attaches the selectors."""
    if any(True for _ in gates(model)):
        raise ModelError(f"this {type(model).__name__} already has token selectors; remove them with detach first")
    watch = watched(model, example, MASK)
    stages = stages_of_pass(watch)
    if stages:
        names = tuple(block.name for stage in stages for block in stage.blocks)
        return _Insertion(lambda network: attach_grid(network, edits, stages, seed), Places(names, 0, 0))
    layout = layout_of(watch)
    by_block, biased = _checked(edits, layout), _position_biased(model, layout)
    indices = Places(layout.names, layout.prefix, layout.patches)
    return _Insertion(lambda network: _put(network, by_block, layout, biased, seed), indices)


def _put(
    model: nn.Module, by_block: Mapping[str, KeepTokens], layout: TokenLayout, biased: bool, seed: int
) -> nn.Module:
    """Attach selectors to a network whose blocks all have the same tokens."""
    if not by_block:
        return model
    names = layout.names
    indices = [names.index(block) for block in by_block]
    watched_places = [index - 1 for index in indices if needs_attention(by_block[names[index]].selector) and index]
    merging = any(edit.selector == MERGER for edit in by_block.values())
    start = min((*indices, *watched_places))
    unmerges = _unmerges(by_block.values(), layout)
    entering, chain, like = layout.patches, Chain(), next(model.parameters())
    for index in range(start, len(names)):
        edit = by_block.get(names[index])
        step = None
        if edit is not None:
            step = _step(edit, layout, index, entering, seed, unmerges).to(like.device, like.dtype)
            entering = min(entering, edit.count)
        block = model.get_submodule(names[index])
        moved = index >= min(indices)
        settings = GateSettings(
            dense=layout.prefix + layout.patches,
            first=index == start,
            last=index == len(names) - 1,
            watches=index in watched_places or (moved and (merging or biased)),
            takes_mask=layout.blocks[index].takes_mask,
            drops=layout.dense and index == len(names) - 1,
            roles=layout.blocks[index].roles,
            behind=layout.roles,
        )
        gate = TokenGate(block, step, chain, settings)
        gate.train(block.training)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Remove all selectors from a network, in place; the result is bit-identical to the original network."""
    for gate in list(gates(model)):
        gate.remove()
    return model


def gates(model: nn.Module) -> Iterator[TokenGate | GridGate]:
    """Yield the gates of a network, in the order of its modules."""
    for path, module in model.named_modules():
        if isinstance(module, TokenGate | GridGate) and path.rpartition(".")[2] == GATE:
            yield module


def selections(model: nn.Module) -> dict[str, Selection]:
    """Return the selectors of a network by the name of the block after them."""
    return {
        gate.step.settings.block: gate.step
        for gate in gates(model)
        if isinstance(gate, TokenGate) and isinstance(gate.step, Selection)
    }


def _checked(edits: Sequence[KeepTokens], layout: TokenLayout) -> dict[str, KeepTokens]:
    """Return the edits by block, in the order of blocks."""
    known = {edit.block: edit for edit in edits}
    for edit in edits:
        if edit.block not in layout.names:
            close = nearest(edit.block, layout.names)
            hint = f"; did you mean {close!r}?" if close else f"; it has {len(layout.names)} blocks"
            raise PlanError(f"the plan prunes tokens at block {edit.block!r}, which the network does not have{hint}")
    if len(known) != len(edits):
        raise PlanError("the plan prunes tokens twice at one block; use one edit for each block")
    before = layout.patches
    ordered = {name: known[name] for name in layout.names if name in known}
    for name, edit in ordered.items():
        if not 0 <= edit.count <= before:
            raise PlanError(f"the plan keeps {edit.count} tokens at block {name!r}, but only {before} arrive there")
        if layout.dense and not edit.count:
            raise PlanError(
                f"the plan keeps no patch at block {name!r}, but the network takes the maximum over its patches; keep "
                "one or more"
            )
        before = edit.count
    return ordered


def _step(edit: KeepTokens, layout: TokenLayout, index: int, entering: int, seed: int, unmerges: bool) -> nn.Module:
    options = {name: value for name, value in edit.settings if name not in ("package", "unmerge")}
    mode = _package_of(edit)
    norm = options.pop("package_norm", "mean")
    settings = SelectionSettings(
        block=edit.block,
        prefix=layout.prefix,
        patches=layout.patches,
        entering=entering,
        count=edit.count,
        package=_chosen(mode, PACKAGES, edit),
        package_norm=_chosen(norm, NORMS, edit),
        keeps_one=layout.dense or mode == "none",
        proportional=_chosen(options.pop("proportional", False), (False, True), edit),
        unmerges=unmerges,
    )
    if edit.selector == MERGER:
        if index == 0:
            raise PlanError("tokens are merged by the attention of the previous block; block 0 has none")
        return Merger(settings)
    site = Site(layout.width, layout.blocks[index].heads, layout.patches, index)
    return Selection(build_selector(edit.selector, site, options, seed), settings)


def _unmerges(edits: Collection[KeepTokens], layout: TokenLayout) -> bool:
    """Return whether patches are unmerged after the last block."""
    found = {dict(edit.settings).get("unmerge") for edit in edits}
    if len(found) > 1:
        raise PlanError("the plan unmerges patches at some blocks only; give all edits the same setting 'unmerge'")
    usual = "auto" if all(edit.selector == MERGER for edit in edits) else "never"
    for edit in edits:
        chosen = _chosen(usual if found == {None} else dict(edit.settings)["unmerge"], UNMERGES, edit)
        if chosen == "never" or (chosen == "auto" and not layout.pooled):
            return False
        if edit.selector != MERGER and _package_of(edit) == "none":
            raise PlanError(
                f"the edit at block {edit.block!r} has unmerge {chosen!r}, but without packages no token represents "
                "pruned patches; set package, or unmerge: never"
            )
    return True


def _package_of(edit: KeepTokens) -> object:
    usual = "none" if edit.selector in ("random", "dynamicvit") else "merge"
    return dict(edit.settings).get("package", usual)


def _chosen(value: object, known: tuple[V, ...], edit: KeepTokens) -> V:
    for each in known:
        if value == each:
            return each
    raise PlanError(f"the plan's edit at block {edit.block!r} has the setting {value!r} where one of {known} is known")


def _position_biased(model: nn.Module, layout: TokenLayout) -> bool:
    """Return whether blocks add a bias for each pair of tokens, which must follow the tokens."""
    dense = layout.prefix + layout.patches
    tables = (*dict(model.named_parameters()).items(), *dict(model.named_buffers()).items())
    return any("relative_position" in name or tuple(value.shape[-2:]) == (dense, dense) for name, value in tables)
