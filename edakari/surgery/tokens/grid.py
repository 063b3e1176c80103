"""Token pruning of networks that put tokens back on a grid between stages (Swin, PiT): pruned positions skip the MLPs.

A selector before a block of a stage decides for this block and all later blocks of the stage. The next stage begins
with all positions. Attention keeps its windows and its shape, so only the MLPs become cheaper; the trace of the network
counts the saved MACs.

differs: pruned positions remain keys of their windows, and there is no package. The authors' Swin is not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.plan import KeepTokens
from edakari.core.stand_ins import put_stand_in, take_stand_in_off
from edakari.errors import PlanError, nearest
from edakari.surgery.tokens.checkpointing import entered, left
from edakari.surgery.tokens.gate import GATE, refuse_gated
from edakari.surgery.tokens.rows import pick
from edakari.surgery.tokens.selection import sampled, straight_through
from edakari.surgery.tokens.selectors import Candidates, Site, Verdict, begin_at, build_selector, needs_attention
from edakari.surgery.tokens.stages import GridStage
from edakari.surgery.tokens.state import Chain, Decision, TokenState

__all__ = ["GridGate", "attach_grid"]

PACKED = ("package", "package_norm", "proportional", "unmerge")
"""Settings of packages, which do not exist here."""


class GridGate(nn.Module):
    """Gate of a block in a stage and of its MLP: scores the block's input and runs the MLP on kept positions."""

    def __init__(
        self,
        block: nn.Module,
        mlp: nn.Module,
        chain: Chain,
        selector: nn.Module | None,
        edit: KeepTokens | None,
        stage: GridStage,
        *,
        last: bool,
    ) -> None:
        super().__init__()
        refuse_gated(block, mlp)
        self.selector, self.edit, self.stage, self.chain = selector, edit, stage, chain
        self.last = last
        vars(self)["block"], vars(self)["mlp"] = block, mlp  # not children: the block holds the gate
        block.add_module(GATE, self)
        put_stand_in(block, self.run)
        put_stand_in(mlp, self.feed)

    def run(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Compute the block's outputs; a selector scores the positions first."""
        entry = entered(self.chain, self, self.selector is not None)
        if self.selector is not None:
            self._decide(x, entry.state)
        out = type(vars(self)["block"]).forward(vars(self)["block"], x, *args, **kwargs)
        if self.last:
            entry.state.working = entry.state.going = None
            self.chain.finish()
            if entry.state.record:
                entry.state.tokens = out[0] if isinstance(out, tuple) else out
        return (left(entry, out[0]), *out[1:]) if isinstance(out, tuple) else left(entry, out)

    def begin_at_target(self) -> None:
        """Shift the scores of a new selector, so that sampled decisions keep about the planned number of positions."""
        if self.edit is not None:
            begin_at(self.selector, self.edit.count / self.stage.patches)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the MLP's outputs, with zeros at pruned positions, which a residual sum ignores."""
        mlp, state = vars(self)["mlp"], self.chain.now()
        shape, prefix = x.shape, self.stage.prefix
        x_BNC = x.reshape(shape[0], -1, shape[-1])
        if state.working is None:
            assert state.going is not None
            out: torch.Tensor = type(mlp).forward(mlp, x_BNC)
            head = torch.ones_like(state.going[:, :1]).expand(-1, prefix)
            return (out * torch.cat([head, state.going], 1)[..., None].to(out.dtype)).view(shape)
        index_BK = state.working
        chosen = torch.cat([x_BNC[:, :prefix], pick(x_BNC[:, prefix:], index_BK)], 1)
        out_BMC = type(mlp).forward(mlp, chosen)
        if state.learns and state.going is not None:  # factors of 1 with the gradient of the decisions
            factor_BK1 = state.going.gather(1, index_BK)[..., None].to(out_BMC.dtype)
            out_BMC = torch.cat([out_BMC[:, :prefix], out_BMC[:, prefix:] * factor_BK1], 1)
        # every position looks up its row; pruned positions get a row of zeros at the end
        count = index_BK.shape[1]
        rows = torch.full_like(x_BNC[:, prefix:, 0], count, dtype=torch.long)
        rows = rows.scatter(1, index_BK, torch.arange(count, device=x.device).expand_as(index_BK))
        padded = torch.cat([out_BMC[:, prefix:], torch.zeros_like(out_BMC[:, :1])], 1)
        return torch.cat([out_BMC[:, :prefix], pick(padded, rows)], 1).view(shape)

    def remove(self) -> None:
        """Remove the gate and restore the block."""
        block = vars(self)["block"]
        take_stand_in_off(block)
        take_stand_in_off(vars(self)["mlp"])
        del block._modules[GATE]

    def _decide(self, x: torch.Tensor, state: TokenState) -> None:
        assert self.edit is not None
        assert self.selector is not None
        x_BNC = x.reshape(x.shape[0], -1, x.shape[-1])[:, self.stage.prefix :]
        patches = x_BNC.shape[1]
        if patches != self.stage.patches:
            raise PlanError(
                f"the selector at {self.edit.block!r} was made for {self.stage.patches} positions, but got {patches}: "
                "token pruning is for one image size; make a new plan for this size"
            )
        place_BN = torch.arange(patches, device=x.device).expand(len(x_BNC), -1)
        alive = torch.ones_like(x_BNC[..., 0])
        verdict: Verdict = self.selector(Candidates(x_BNC, alive, patches, place_BN, self.stage.prefix, None))
        index_BK = verdict.score.topk(self.edit.count, dim=1).indices.sort(dim=1).values
        mask = torch.zeros_like(alive).scatter(1, index_BK, torch.ones_like(index_BK, dtype=alive.dtype))
        taught = state.strategy == "mask" or state.learns
        if state.rule == "count" and taught and verdict.score.requires_grad:
            edge_B1 = verdict.score.gather(1, index_BK).amin(1, keepdim=True)
            mask = straight_through(mask, verdict.score, edge_B1)
        if state.rule == "sample":
            mask = sampled(verdict.score, state.temperature)
        state.going = mask
        state.working = index_BK if state.strategy == "topk" else None
        if state.record:
            state.decisions.append(Decision(self.edit.block, mask, verdict.score))


def attach_grid(model: nn.Module, edits: Sequence[KeepTokens], stages: Sequence[GridStage], seed: int = 0) -> nn.Module:
    """Attach selectors to the stages of a network, in place; see `edakari.surgery.tokens.attachment`.

    Raises:
        PlanError: an edit names an unknown block, keeps too many positions, or its selector needs attention.
    """
    names = [block.name for stage in stages for block in stage.blocks]
    chain, like = Chain(), next(model.parameters())
    for edit in edits:
        if edit.block not in names:
            close = nearest(edit.block, names)
            hint = f"; did you mean {close!r}?" if close else ""
            raise PlanError(f"the plan prunes tokens at block {edit.block!r}, which the network does not have{hint}")
        if needs_attention(edit.selector):
            raise PlanError(f"selector {edit.selector!r} needs an attention over all tokens, but stages have windows")
    for stage in stages:
        chosen = [edit for edit in edits if edit.block in [block.name for block in stage.blocks]]
        if len(chosen) > 1:
            raise PlanError(f"a stage has one selector, but the plan has {len(chosen)} from {chosen[0].block!r} on")
        if not chosen:
            continue
        edit = chosen[0]
        if not 0 < edit.count <= stage.patches:
            raise PlanError(f"the plan keeps {edit.count} of {stage.patches} positions at block {edit.block!r}")
        first = [block.name for block in stage.blocks].index(edit.block)
        for index, block in enumerate(stage.blocks[first:]):
            selector = None
            if index == 0:
                site = Site(stage.width, block.heads, stage.patches, first)
                options = {name: value for name, value in edit.settings if name not in PACKED}
                selector = build_selector(edit.selector, site, options, seed).to(like.device, like.dtype)
            owner = model.get_submodule(block.name)
            gate = GridGate(
                owner,
                model.get_submodule(block.mlp),
                chain,
                selector,
                edit if index == 0 else None,
                stage,
                last=block is stage.blocks[-1],
            )
            gate.train(owner.training)
    return model
