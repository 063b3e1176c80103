"""Dissimilarity of each token to the mean of all tokens, as an initial score."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

__all__ = ["UNLIKE", "Start", "shares", "unlikeness", "weighted_mean"]

Start = Literal["unlike", "random"]
UNLIKE = 4.0
"""What unlikeness counts at first in a score; it is learned."""
SHORT = 1e-12
"""Least length of a token that is divided by."""


def unlikeness(x_BNC: torch.Tensor, alive_BN: torch.Tensor) -> torch.Tensor:
    """Compute how dissimilar each token is to the mean of all tokens, relative to the average (cosine), [B, N].

    Args:
        x_BNC: tokens.
        alive_BN: 1 for present tokens.
    """
    x_BNC = x_BNC.to(torch.promote_types(x_BNC.dtype, torch.float32))
    length_BN = x_BNC.norm(dim=-1).clamp_min(SHORT)
    share_BN = shares(alive_BN).to(x_BNC.dtype)
    # lengths are divided out of sums, not out of tokens: fewer passes over all that tokens hold
    mean_BC = functional.normalize(weighted_mean(x_BNC, share_BN / length_BN), dim=-1)
    alike_BN: torch.Tensor = (x_BNC @ mean_BC[..., None]).squeeze(-1) / length_BN
    return (share_BN * alike_BN).sum(1, keepdim=True) - alike_BN


def shares(alive_BN: torch.Tensor) -> torch.Tensor:
    """Return the weights of a mean over the present tokens, at least in float32."""
    alive = alive_BN.to(torch.promote_types(alive_BN.dtype, torch.float32))
    return alive / alive.sum(1, keepdim=True).clamp_min(1.0)


def weighted_mean(x_BNC: torch.Tensor, share_BN: torch.Tensor) -> torch.Tensor:
    """Compute the weighted sum of tokens, [B, C]."""
    mean_B1C: torch.Tensor = share_BN[:, None] @ x_BNC.to(share_BN.dtype)
    return mean_B1C[:, 0]
