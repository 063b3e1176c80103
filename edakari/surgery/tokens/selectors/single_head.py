"""DynamicViT's predictor: one MLP on the whole embedding."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from edakari.surgery.tokens.selectors.base import Candidates, Site, Verdict, selector

__all__ = ["SingleHeadSelector"]


@selector("dynamicvit")
class SingleHeadSelector(nn.Module):
    """Local features beside their mean over the tokens that are there (Rao et al., 2021, section 3.2).

    Args:
        site: where it stands.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        width = site.width - site.width % 2
        self.norm = nn.LayerNorm(site.width)
        self.enter = nn.Linear(site.width, width)
        self.leave = nn.Sequential(
            nn.Linear(width, max(1, width // 2)),
            nn.GELU(),
            nn.Linear(max(1, width // 2), max(1, width // 4)),
            nn.GELU(),
            nn.Linear(max(1, width // 4), 2),
        )

    def forward(self, seen: Candidates) -> Verdict:
        """See `Selector`."""
        u_BNC = functional.gelu(self.enter(self.norm(seen.x)))
        local, shared = u_BNC.chunk(2, -1)
        alive = seen.alive[..., None].to(u_BNC.dtype)
        whole = ((shared * alive).sum(1, keepdim=True) / alive.sum(1, keepdim=True).clamp_min(1.0)).expand_as(local)
        logits = self.leave(torch.cat([local, whole], -1))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        score = (logits[..., 0] - logits[..., 1])[:, : seen.patches]
        return Verdict(score, torch.sigmoid(score))
