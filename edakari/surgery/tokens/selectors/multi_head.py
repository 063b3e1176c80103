"""SPViT's selector: each head scores tokens by its own channels, and a branch weighs the heads."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from edakari.errors import PlanError
from edakari.surgery.tokens.selectors.base import Candidates, Site, Verdict, selector
from edakari.surgery.tokens.selectors.unlike import UNLIKE, Start, shares, unlikeness, weighted_mean

__all__ = ["MultiHeadSelector", "merged"]

Merge = Literal["geo", "arith"]


@selector("spvit")
class MultiHeadSelector(nn.Module):
    """The token selector of SPViT (Kong et al., 2022, section 3.2; the authors' code where it differs).

    Args:
        site: position of the selector; the width is a multiple of the heads.
        head_branch: whether to weigh the heads by their importance; otherwise all heads count equally.
        share_head_mlp: whether all heads share one set of weights, as in the authors' code.
        merge: how to merge the heads' outputs: "geo" is the mean of log-probabilities, as in the authors' code; "arith"
            is the mean of probabilities, as in the paper.
        features: local and global features: "code" splits a head's channels into halves; "paper" uses the same half for
            both.
        bias: initial bias of the last layer towards keeping.
        start: initial scores: "unlike" measures how much a token differs from the mean of all tokens, so that packed
            tokens are similar and their mean represents them well; "random" is the authors' initialisation.
    """

    def __init__(
        self,
        site: Site,
        *,
        head_branch: bool = True,
        share_head_mlp: bool = True,
        merge: Merge = "geo",
        features: Literal["code", "paper"] = "code",
        bias: float = 0.0,
        start: Start = "unlike",
    ) -> None:
        super().__init__()
        if site.width % site.heads:
            raise PlanError(
                f"the selector looks at tokens head by head, but {site.width} channels are no multiple of "
                f"{site.heads} heads; prune the embedding in multiples of the heads (groups.round_to)"
            )
        self.heads, self.merge, self.features = site.heads, merge, features
        per_head = site.width // site.heads
        half, quarter, own = max(1, per_head // 2), max(1, per_head // 4), 1 if share_head_mlp else site.heads
        self.local = half
        self.norm = nn.LayerNorm(per_head)
        self.enter = _HeadLinear(own, per_head, 2 * half if features == "code" else half)
        self.first = _HeadLinear(own, 2 * half, half)
        self.second = _HeadLinear(own, half, quarter)
        self.last = _HeadLinear(own, quarter, 2)
        hidden = max(1, site.heads // 2)
        self.squeeze = nn.Linear(site.heads, hidden) if head_branch else None
        self.excite = nn.Linear(hidden, site.heads) if head_branch else None
        for module in self.modules():
            if isinstance(module, (nn.Linear, _HeadLinear)):
                # differs: the authors begin with 0.02; four such layers pass so little on that short trainings end
                # before scores depend on tokens
                nn.init.trunc_normal_(module.weight, std=module.weight.shape[-1] ** -0.5)
                nn.init.zeros_(module.bias)
        # differs: the authors begin with random scores; those need long trainings to become better than chance
        self.unlike = nn.Parameter(torch.tensor(UNLIKE)) if start == "unlike" else None
        if start == "unlike":
            nn.init.trunc_normal_(self.last.weight, std=0.02)
        with torch.no_grad():
            self.last.bias[..., 0] += bias / 2
            self.last.bias[..., 1] -= bias / 2

    def forward(self, seen: Candidates) -> Verdict:
        """See `Selector`."""
        odds_BNH, importance_BNH = self.judged(seen.x, seen.alive)
        score, weight = merged(odds_BNH, importance_BNH, self.merge)
        score = score[:, : seen.patches]
        if self.unlike is not None:
            score = score + self.unlike * unlikeness(seen.x[:, : seen.patches], seen.alive[:, : seen.patches])
        return Verdict(score, weight[:, : seen.patches])

    def odds_bias(self) -> nn.Parameter:
        """See `TrainedSelector`."""
        return self.last.bias

    def judged(self, x_BNC: torch.Tensor, alive_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute each head's logit of keeping, and its importance, both [B, N, H]."""
        x_BNHD = x_BNC.reshape(*x_BNC.shape[:2], self.heads, -1)
        u_BNHD = functional.gelu(self.enter(self.norm(x_BNHD)))
        local, shared = u_BNHD[..., : self.local], u_BNHD[..., -self.local :]
        whole_B1HD = weighted_mean(shared.flatten(2), shares(alive_BN)).to(local.dtype).reshape(-1, 1, *local.shape[2:])
        hidden = functional.gelu(self.first.of_parts(local, whole_B1HD))
        logits_BNH2 = self.last(functional.gelu(self.second(hidden)))
        return logits_BNH2[..., 0] - logits_BNH2[..., 1], self._importance(x_BNHD)

    def _importance(self, x_BNHD: torch.Tensor) -> torch.Tensor:
        mean_BNH = x_BNHD.mean(-1)
        if self.squeeze is None or self.excite is None:
            return torch.ones_like(mean_BNH)
        importance: torch.Tensor = torch.sigmoid(self.excite(functional.gelu(self.squeeze(mean_BNH))))
        return importance


def merged(
    odds_BNH: torch.Tensor, importance_BNH: torch.Tensor, merge: Merge = "geo"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge the heads' outputs.

    Args:
        odds_BNH: each head's logit of keeping.
        importance_BNH: weight of each head, above 0.
        merge: how logits are merged; the package weight is always the weighted mean of the probabilities.

    Returns:
        The logit of keeping, and the package weight in (0, 1), both [B, N], at least in float32.
    """
    odds = odds_BNH.to(torch.promote_types(odds_BNH.dtype, torch.float32))
    importance = importance_BNH.to(odds.dtype)
    total_BN = importance.sum(-1)
    weight_BN = (importance * torch.sigmoid(odds)).sum(-1) / total_BN
    if merge == "geo":
        return (importance * odds).sum(-1) / total_BN, weight_BN
    return torch.logit(weight_BN, eps=torch.finfo(weight_BN.dtype).tiny), weight_BN


class _HeadLinear(nn.Module):
    """A linear layer on [..., heads, channels], with weights of its own for each head or one set for all."""

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(heads, outputs))

    def forward(self, x_BNHD: torch.Tensor) -> torch.Tensor:
        """Features [B, N, H, outputs]."""
        if len(self.weight) == 1:
            return functional.linear(x_BNHD, self.weight[0], self.bias[0])
        return _by_head(x_BNHD, self.weight) + self.bias

    def of_parts(self, own_BNHD: torch.Tensor, shared_B1HD: torch.Tensor) -> torch.Tensor:
        """The same on both side by side, where what tokens share is worked out once."""
        width = own_BNHD.shape[-1]
        shared = _by_head(shared_B1HD, self.weight[..., width:]) + self.bias
        return _by_head(own_BNHD, self.weight[..., :width]) + shared


def _by_head(x_BNHD: torch.Tensor, weight_HOD: torch.Tensor) -> torch.Tensor:
    if len(weight_HOD) == 1:
        return functional.linear(x_BNHD, weight_HOD[0])
    out: torch.Tensor = torch.einsum("bnhd,hod->bnho", x_BNHD, weight_HOD)
    return out
