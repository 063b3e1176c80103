"""Token selection: scores, decisions, packages and removal."""

from __future__ import annotations

import dataclasses as dc

import torch
from torch import nn

from edakari.errors import PlanError
from edakari.surgery.tokens.package_token import PackageMode, PackageNorm, package
from edakari.surgery.tokens.rows import in_one_row, pick, side_by_side
from edakari.surgery.tokens.selectors import Candidates, Verdict
from edakari.surgery.tokens.state import Decision, TokenState
from edakari.surgery.tokens.unmerging import note_packed

__all__ = ["Selection", "SelectionSettings", "sampled", "straight_through"]


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class SelectionSettings:
    """Position of a selector and number of tokens that it keeps.

    Args:
        block: dotted path of the block after the selector.
        prefix: number of tokens that are never pruned.
        patches: number of patches of the dense network.
        entering: number of input patches if every earlier selector kept its count.
        count: number of patches to keep.
        package: what happens to pruned tokens.
        package_norm: see `edakari.surgery.tokens.package_token`.
        keeps_one: whether an image always keeps its best patch, because later parts need at least one.
        unmerges: whether each pruned patch gets its package's output after the last block.
        proportional: whether attention weighs the package by the number of its tokens (proportional attention, ToMe).
    """

    block: str
    prefix: int
    patches: int
    entering: int
    count: int
    package: PackageMode = "merge"
    package_norm: PackageNorm = "mean"
    proportional: bool = False
    keeps_one: bool = False
    unmerges: bool = False


class Selection(nn.Module):
    """A selector with its settings and package token; `TokenState` holds the state of a pass."""

    def __init__(self, selector: nn.Module, settings: SelectionSettings) -> None:
        super().__init__()
        self.selector, self.settings = selector, settings
        # threshold on a token's logit, for a different number of tokens per image; probabilities saturate
        self.register_buffer("threshold", torch.tensor(0.0))

    def forward(self, x_BMC: torch.Tensor, state: TokenState) -> torch.Tensor:
        """Return the tokens for the block, in the form of the pass's strategy."""
        settings = self.settings
        x_BMC, alive_BM = self._rectangular(x_BMC, state)
        end = x_BMC.shape[1] - state.packages
        self._check(end - settings.prefix, state)
        if state.strategy == "topk" and settings.count >= end - settings.prefix:
            return x_BMC
        alive_BN = alive_BM[:, settings.prefix : end]
        place_BN = state.index
        assert place_BN is not None
        seen = Candidates(
            x_BMC[:, settings.prefix :],
            alive_BM[:, settings.prefix :],
            end - settings.prefix,
            place_BN[:, settings.prefix : end] - settings.prefix,
            settings.prefix,
            state.attended,
        )
        verdict: Verdict = self.selector(seen)
        kept_BN, index_BK = self._decided(verdict.score, alive_BN, state)
        gone_BN = alive_BN - kept_BN
        packs_BPC, weight_B = self._packed(x_BMC, verdict.weight * gone_BN, state)
        size_BP = self._sizes(x_BMC, gone_BN.detach(), state)
        if settings.unmerges:
            dense = settings.prefix + settings.patches
            id_BN = place_BN[:, settings.prefix : end]
            note_packed(state, dense, settings.patches, id_BN, gone_BN.detach(), settings.package)
        if state.record:
            self._record(kept_BN, verdict, packs_BPC, seen, alive_BN, state)
        x_BMC, index_BK = self._removed(x_BMC, kept_BN, index_BK, packs_BPC, weight_B, alive_BM, state)
        if size_BP is not None:
            self._resized(x_BMC, index_BK, size_BP, state)
        return self._in_row(x_BMC, kept_BN, state) if state.strategy in ("packed", "bucketed") else x_BMC

    def _check(self, patches: int, state: TokenState) -> None:
        expected = self.settings.patches if state.strategy == "mask" else self.settings.entering
        if state.strategy in ("mask", "topk") and patches != expected:
            raise PlanError(
                f"the selector at {self.settings.block!r} was made for {expected} patches, but got {patches}: token "
                "pruning is for one image size; make a new plan for this size"
            )

    def _rectangular(self, x_BMC: torch.Tensor, state: TokenState) -> tuple[torch.Tensor, torch.Tensor]:
        """Separate the images of a packed row, and return which tokens are present."""
        if state.lengths is not None:
            lengths, packages = state.lengths, state.packages
            x_BMC = side_by_side(x_BMC, lengths, packages)
            assert state.alive is not None
            assert state.index is not None
            state.alive = side_by_side(state.alive, lengths, packages)
            state.index = side_by_side(state.index, lengths, packages, -1)
            if state.size is not None:
                state.size = side_by_side(state.size, lengths, packages, 1.0)
            if state.attended is not None:
                q, k = (side_by_side(each, lengths, packages, dim=2) for each in state.attended)
                state.attended = (q, k)
            state.lengths = None
        if state.index is None:
            state.prefix = self.settings.prefix
            state.index = torch.arange(x_BMC.shape[1], device=x_BMC.device).expand(x_BMC.shape[0], -1)
        alive = state.alive
        return x_BMC, torch.ones_like(x_BMC[..., 0]) if alive is None else alive

    def _decided(
        self, score_BN: torch.Tensor, alive_BN: torch.Tensor, state: TokenState
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return 1 for each kept patch and, for "topk", their indices in increasing order."""
        masked = score_BN.masked_fill(alive_BN == 0, -torch.inf) if state.alive is not None else score_BN
        if state.rule == "sample":
            return self._never_none(sampled(score_BN, state.temperature) * alive_BN, masked), None
        if state.rule == "threshold" and state.strategy != "topk":
            kept = (score_BN >= self.get_buffer("threshold")).to(alive_BN.dtype) * alive_BN
            return self._never_none(self._capped(kept, masked, state), masked), None
        best = masked.topk(min(self.settings.count, masked.shape[1]), dim=1)
        index_BK = best.indices.sort(dim=1).values
        kept = torch.zeros_like(alive_BN).scatter(1, index_BK, torch.ones_like(index_BK, dtype=alive_BN.dtype))
        taught = state.strategy == "mask" or state.learns
        if taught and score_BN.requires_grad and self.settings.count:
            kept = straight_through(kept, score_BN, best.values[:, -1:])
        return kept * alive_BN, index_BK

    def _capped(self, kept_BN: torch.Tensor, score_BN: torch.Tensor, state: TokenState) -> torch.Tensor:
        """Limit the number of tokens to the largest number that fits."""
        cap = state.caps.get(self.settings.block)
        if cap is None or cap >= kept_BN.shape[1]:
            return kept_BN
        best = torch.zeros_like(kept_BN).scatter(1, score_BN.topk(cap, dim=1).indices, 1.0)
        return kept_BN * best

    def _never_none(self, kept_BN: torch.Tensor, score_BN: torch.Tensor) -> torch.Tensor:
        """Keep the best patch of an image that would lose all patches; decisions keep their gradient."""
        if not self.settings.keeps_one:
            return kept_BN
        best = torch.zeros_like(kept_BN).scatter(1, score_BN.argmax(1, keepdim=True), 1.0)
        missing = best * (kept_BN.detach().sum(1, keepdim=True) == 0)
        return kept_BN + missing * (1 - kept_BN).detach()

    def _packed(
        self, x_BMC: torch.Tensor, weight_BN: torch.Tensor, state: TokenState
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """All package tokens after this selector, [B, P, C], and the total weight of the last one."""
        mode, count = self.settings.package, x_BMC.shape[1]
        packs_BPC = x_BMC[:, count - state.packages :]
        if mode == "none":
            return packs_BPC, None
        before = (packs_BPC[:, -1], state.weight) if state.packages and state.weight is not None else None
        patches_BNC = x_BMC[:, self.settings.prefix : count - state.packages]
        made_BC, weight_B = package(patches_BNC, weight_BN, mode, self.settings.package_norm, before)
        rest = packs_BPC if mode == "append" else packs_BPC[:, :0]
        return torch.cat([rest, made_BC[:, None]], 1), weight_B

    def _removed(
        self,
        x_BMC: torch.Tensor,
        kept_BN: torch.Tensor,
        index_BK: torch.Tensor | None,
        packs_BPC: torch.Tensor,
        weight_B: torch.Tensor | None,
        alive_BM: torch.Tensor,
        state: TokenState,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Kept tokens in one tensor, and the indices of their patches; None if all patches stay in the tensor."""
        prefix, end = self.settings.prefix, x_BMC.shape[1] - state.packages
        place_BM = state.index
        assert place_BM is not None
        if state.strategy == "topk":
            assert index_BK is not None
        else:
            index_BK = self._order(kept_BN, state)
        patches_BNC = x_BMC[:, prefix:end]
        place_BN, alive_BN = place_BM[:, prefix:end], kept_BN
        if index_BK is not None:
            patches_BNC, place_BN = pick(patches_BNC, index_BK), place_BN.gather(1, index_BK)
            alive_BN = alive_BN.gather(1, index_BK)
        if state.learns and state.strategy == "topk":  # factors of 1 with the gradient of the decisions
            patches_BNC = patches_BNC * alive_BN[..., None].to(patches_BNC.dtype)
        x_BMC = torch.cat([x_BMC[:, :prefix], patches_BNC, packs_BPC], 1)
        none = torch.full_like(place_BM[:, :1], -1).expand(-1, packs_BPC.shape[1])
        state.index = torch.cat([place_BM[:, :prefix], place_BN, none], 1)
        if state.strategy != "topk":
            there = alive_BM[:, end : end + packs_BPC.shape[1]]
            if weight_B is not None:
                there = torch.cat([alive_BM[:, end:], (weight_B > 0)[:, None].to(alive_BM.dtype)], 1)
                there = there[:, there.shape[1] - packs_BPC.shape[1] :]
            state.alive = torch.cat([alive_BM[:, :prefix], alive_BN, there], 1)
        state.packages, state.weight = packs_BPC.shape[1], weight_B
        return x_BMC, index_BK

    def _sizes(self, x_BMC: torch.Tensor, gone_BN: torch.Tensor, state: TokenState) -> torch.Tensor | None:
        """Number of patches in each package after this selector, [B or 1, P]; None if not needed."""
        settings, prefix, old = self.settings, self.settings.prefix, state.packages
        if state.size is None and not settings.proportional:
            return None
        end = x_BMC.shape[1] - old
        rows = 1 if state.strategy == "topk" and not state.merged else x_BMC.shape[0]
        before_BP = x_BMC.new_ones(rows, old) if state.size is None else state.size[:, end:]
        if settings.package == "none":
            return before_BP
        if state.strategy == "topk" and not state.merged:  # the same in every image: a constant of the graph
            now_B1 = x_BMC.new_full((1, 1), float(end - prefix - settings.count))
        else:
            now_B1 = (gone_BN if state.size is None else gone_BN * state.size[:, prefix:end]).sum(1, keepdim=True)
        if settings.package == "append":
            return torch.cat([before_BP, now_B1], 1)
        return now_B1 + before_BP[:, -1:] if old else now_B1

    def _resized(
        self, x_BMC: torch.Tensor, index_BK: torch.Tensor | None, size_BP: torch.Tensor, state: TokenState
    ) -> None:
        """Record the number of patches that each token represents; empty packages are absent."""
        prefix, patches = self.settings.prefix, x_BMC.shape[1] - self.settings.prefix - state.packages
        size = state.size
        if size is None or (state.strategy == "topk" and not state.merged):
            size_BM = x_BMC.new_ones(size_BP.shape[0], prefix + patches)
        else:
            size_BN = size[:, prefix : prefix + patches] if index_BK is None else size[:, prefix:].gather(1, index_BK)
            size_BM = torch.cat([size[:, :prefix], size_BN], 1)
        state.size = torch.cat([size_BM, size_BP.clamp_min(1.0)], 1)

    def _order(self, kept_BN: torch.Tensor, state: TokenState) -> torch.Tensor | None:
        """Kept patches first, in order, padded to the fullest image; None if all stay in the tensor."""
        if state.strategy == "mask":
            return None
        cap = state.caps.get(self.settings.block) if state.strategy == "padded" else None
        longest = int(kept_BN.sum(1).max()) if cap is None else min(cap, kept_BN.shape[1])
        return torch.argsort(1 - kept_BN.detach(), dim=1, stable=True)[:, :longest]

    def _in_row(self, x_BMC: torch.Tensor, kept_BN: torch.Tensor, state: TokenState) -> torch.Tensor:
        counts = [int(count) for count in kept_BN.sum(1).tolist()]
        packages, prefix = state.packages, self.settings.prefix
        present = x_BMC.shape[1] - prefix - packages
        if state.strategy == "bucketed":
            counts = [next((edge for edge in state.edges if edge >= count), count) for count in counts]
            missing = max(counts) - present
            if missing > 0:
                x_BMC = _widened(x_BMC, missing, packages, 0.0)
                assert state.alive is not None
                assert state.index is not None
                state.alive = _widened(state.alive, missing, packages, 0.0)
                state.index = _widened(state.index, missing, packages, -1)
                state.size = None if state.size is None else _widened(state.size, missing, packages, 1.0)
        assert state.alive is not None
        assert state.index is not None
        state.alive = in_one_row(state.alive, counts, prefix, packages)
        state.index = in_one_row(state.index, counts, prefix, packages)
        state.size = None if state.size is None else in_one_row(state.size, counts, prefix, packages)
        state.lengths = [prefix + count + packages for count in counts]
        return in_one_row(x_BMC, counts, prefix, packages)

    def _record(
        self,
        kept_BN: torch.Tensor,
        verdict: Verdict,
        packs_BPC: torch.Tensor,
        seen: Candidates,
        alive_BN: torch.Tensor,
        state: TokenState,
    ) -> None:
        blank = kept_BN.new_zeros(kept_BN.shape[0], self.settings.patches + 1)
        index = torch.where(seen.index < 0, torch.full_like(seen.index, self.settings.patches), seen.index)
        kept = blank.scatter(1, index, kept_BN)[:, :-1]
        score = verdict.score.masked_fill(alive_BN == 0, -torch.inf)
        score = torch.full_like(blank, -torch.inf, dtype=score.dtype).scatter(1, index, score)[:, :-1]
        made = packs_BPC[:, -1] if packs_BPC.shape[1] else None
        weight = torch.zeros_like(blank, dtype=verdict.weight.dtype).scatter(1, index, verdict.weight)[:, :-1]
        state.decisions.append(Decision(self.settings.block, kept, score, made, weight))


def sampled(score_BN: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Sample decisions (1 or 0) by logits, with the gradient of soft decisions (straight-through Gumbel-softmax).

    The difference of two Gumbel variables is logistic, so one sample per token is enough.

    Args:
        score_BN: logit of keeping each token.
        temperature: temperature of the soft decisions.
    """
    uniform = torch.rand_like(score_BN).clamp(1e-7, 1 - 1e-7)
    soft = torch.sigmoid((score_BN + torch.logit(uniform)) / temperature)
    # in this order the sum is exactly 0 or 1
    return soft + ((soft > 0.5).to(soft.dtype) - soft).detach()


def straight_through(kept_BN: torch.Tensor, score_BN: torch.Tensor, edge_B1: torch.Tensor) -> torch.Tensor:
    """Return decisions by rank with the gradient of soft decisions, centred at the last kept score."""
    soft = torch.sigmoid(score_BN - edge_B1.detach())
    return soft + (kept_BN.to(soft.dtype) - soft).detach()


def _widened(x_BMC: torch.Tensor, missing: int, packages: int, fill: float) -> torch.Tensor:
    end = x_BMC.shape[1] - packages
    shape = list(x_BMC.shape)
    shape[1] = missing
    return torch.cat([x_BMC[:, :end], x_BMC.new_full(shape, fill), x_BMC[:, end:]], 1)
