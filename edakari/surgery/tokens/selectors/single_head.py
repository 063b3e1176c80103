"""DynamicViT's predictor: one MLP on the complete embedding."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from edakari.surgery.tokens.selectors.base import Candidates, Site, Verdict, selector
from edakari.surgery.tokens.selectors.unlike import UNLIKE, Start, shares, unlikeness, weighted_mean

__all__ = ["SingleHeadSelector"]


@selector("dynamicvit")
class SingleHeadSelector(nn.Module):
    """Scores by local features and their mean over the present tokens (Rao et al., 2021, section 3.2).

    Args:
        site: position of the selector.
        start: initial scores: "random" is the authors' initialisation; "unlike" measures how much a token differs from
            the mean of all tokens.
    """

    def __init__(self, site: Site, *, start: Start = "random") -> None:
        super().__init__()
        width = site.width - site.width % 2
        self.norm = nn.LayerNorm(site.width)
        self.enter = nn.Linear(site.width, width)
        last = nn.Linear(max(1, width // 4), 2)
        self.leave = nn.Sequential(
            nn.Linear(width, max(1, width // 2)),
            nn.GELU(),
            nn.Linear(max(1, width // 2), max(1, width // 4)),
            nn.GELU(),
            last,
        )
        self.unlike = nn.Parameter(torch.tensor(UNLIKE)) if start == "unlike" else None
        if start == "unlike":
            nn.init.trunc_normal_(last.weight, std=0.02)
            nn.init.zeros_(last.bias)

    def forward(self, seen: Candidates) -> Verdict:
        """See `Selector`."""
        u_BNC = functional.gelu(self.enter(self.norm(seen.x)))
        local, shared = u_BNC.chunk(2, -1)
        whole = weighted_mean(shared, shares(seen.alive)).to(local.dtype)[:, None].expand_as(local)
        logits = self.leave(torch.cat([local, whole], -1))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        score = (logits[..., 0] - logits[..., 1])[:, : seen.patches]
        if self.unlike is not None:
            score = score + self.unlike * unlikeness(seen.x[:, : seen.patches], seen.alive[:, : seen.patches])
        return Verdict(score, torch.sigmoid(score))

    def odds_bias(self) -> nn.Parameter:
        """See `TrainedSelector`."""
        return self.leave.get_parameter("4.bias")
