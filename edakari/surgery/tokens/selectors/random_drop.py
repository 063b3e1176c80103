"""Tokens are dropped at random: the baseline for all selectors."""

from __future__ import annotations

import torch
from torch import nn

from edakari.surgery.tokens.selectors.base import Candidates, Site, Verdict, selector

__all__ = ["RandomSelector"]


@selector("random")
class RandomSelector(nn.Module):
    """Keeps the same random positions in every image in evaluation, and different positions per image in training.

    Args:
        site: position of the selector.
        seed: seed of the random positions.
    """

    def __init__(self, site: Site, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1000 * seed + site.index)
        order = torch.randperm(site.patches, generator=generator).float() / site.patches - 0.5
        self.register_buffer("score", order)

    def forward(self, seen: Candidates) -> Verdict:
        """See `Selector`."""
        score: torch.Tensor = self.get_buffer("score")[seen.index]
        if self.training:
            score = torch.rand_like(score) - 0.5
        return Verdict(score, torch.ones_like(score))
