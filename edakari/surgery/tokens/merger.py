"""One merging step of ToMe."""

from __future__ import annotations

import torch
from torch import nn

from edakari.errors import PlanError
from edakari.surgery.tokens.rows import pick
from edakari.surgery.tokens.selection import SelectionSettings
from edakari.surgery.tokens.selectors import bipartite, merge_tokens
from edakari.surgery.tokens.state import Decision, TokenState
from edakari.surgery.tokens.unmerging import note_merged

__all__ = ["Merger"]


class Merger(nn.Module):
    """Merges tokens by the keys of the previous attention (Bolya et al., 2023); keys are weighted by token sizes.

    differs: tokens are merged between two blocks, not between the attention and the MLP of one block.
    """

    def __init__(self, settings: SelectionSettings) -> None:
        super().__init__()
        least = settings.entering - settings.entering // 2
        if settings.count < least:
            raise PlanError(
                f"one merging at {settings.block!r} leaves at least {least} of {settings.entering} tokens, but "
                f"{settings.count} are requested; merge before more blocks"
            )
        self.settings = settings

    def forward(self, x_BMC: torch.Tensor, state: TokenState) -> torch.Tensor:
        """Return the merged tokens for the block."""
        settings = self.settings
        if state.strategy not in ("topk", "mask"):
            raise PlanError(f"tokens are merged to a fixed number, so strategy {state.strategy!r} is impossible")
        if state.attended is None:
            raise PlanError(
                f"the merging at block {settings.block!r} needs the keys of the block before it, which are visible in "
                "scaled_dot_product_attention and nn.MultiheadAttention only; use 'spvit', 'dynamicvit' or 'random'"
            )
        prefix, batch, state.merged = settings.prefix, x_BMC.shape[0], True
        place_BM = state.index
        if place_BM is None:
            state.prefix = prefix
            place_BM = torch.arange(x_BMC.shape[1], device=x_BMC.device).expand(batch, -1)
        size_BM = torch.ones_like(x_BMC[..., 0]) if state.size is None else state.size.expand(batch, -1)
        alive_BM = torch.ones_like(size_BM) if state.alive is None else state.alive
        left_BN = self._left(alive_BM, state)
        metric_BND = pick(state.attended[1].mean(1), left_BN)
        source_BR, into_BR = bipartite(metric_BND, torch.ones_like(metric_BND[..., 0]), self._merged(x_BMC, state))
        merged_BNC, size_BN = merge_tokens(pick(x_BMC, left_BN), size_BM.gather(1, left_BN), source_BR, into_BR)
        if settings.unmerges:
            ids_BN, dense = place_BM.gather(1, left_BN), prefix + settings.patches
            note_merged(state, dense, settings.patches, ids_BN.gather(1, source_BR), ids_BN.gather(1, into_BR))
        if state.strategy == "mask":
            state.alive = alive_BM.scatter(1, left_BN.gather(1, source_BR), 0.0)
            state.size = size_BM.scatter(1, left_BN, size_BN)
            state.index = place_BM
            self._record(state)
            return x_BMC.scatter(1, left_BN[..., None].expand_as(merged_BNC), merged_BNC)
        stays_BN = torch.ones_like(size_BN).scatter(1, source_BR, 0.0)
        index_BK = stays_BN.topk(settings.count, dim=1).indices.sort(dim=1).values
        x_BMC = torch.cat([x_BMC[:, :prefix], pick(merged_BNC, index_BK)], 1)
        state.size = torch.cat([size_BM[:, :prefix], size_BN.gather(1, index_BK)], 1)
        state.index = torch.cat([place_BM[:, :prefix], place_BM[:, prefix:].gather(1, index_BK)], 1)
        self._record(state)
        return x_BMC

    def _left(self, alive_BM: torch.Tensor, state: TokenState) -> torch.Tensor:
        """Indices of the remaining tokens: a masked pass merges among them and ignores the others."""
        if state.alive is None:
            return torch.arange(self.settings.prefix, alive_BM.shape[1], device=alive_BM.device).expand(
                alive_BM.shape[0], -1
            )
        order = torch.argsort(1 - alive_BM[:, self.settings.prefix :], dim=1, stable=True)
        return order[:, : self.settings.entering] + self.settings.prefix

    def _merged(self, x_BMC: torch.Tensor, state: TokenState) -> int:
        settings = self.settings
        expected = settings.patches if state.strategy == "mask" else settings.entering
        if x_BMC.shape[1] - settings.prefix != expected:
            raise PlanError(
                f"the merging at {settings.block!r} was made for {expected} patches, but got "
                f"{x_BMC.shape[1] - settings.prefix}: token pruning is for one image size; make a new plan"
            )
        return settings.entering - settings.count

    def _record(self, state: TokenState) -> None:
        if not state.record or state.index is None or state.size is None:
            return
        prefix, patches = self.settings.prefix, self.settings.patches
        alive = torch.ones_like(state.size) if state.alive is None else state.alive
        blank = torch.zeros_like(alive[:, :1]).expand(-1, patches)
        index = state.index[:, prefix:] - prefix
        kept = blank.scatter(1, index, alive[:, prefix:])
        score = torch.full_like(blank, -torch.inf).scatter(1, index, torch.log(state.size[:, prefix:]))
        state.decisions.append(Decision(self.settings.block, kept, score))
