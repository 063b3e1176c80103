"""Masks of tokens and of channels at once: which tokens go is asked of the cut network, and told to the masked one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edakari.errors import PlanError
from edakari.surgery.tokens import Adaptive, selections
from edakari.surgery.tokens.selectors import Candidates, Verdict

__all__ = ["BothMasked"]


class BothMasked(nn.Module):
    """A network that masks channels and tokens.

    Selectors are made for the width that is left, so they cannot look at the tokens of a network whose channels are
    only masked: they look at those of the cut network, and what they say is replayed.

    Args:
        cut: with channels cut and tokens masked.
        masked: with selectors in the same places, channels masked and tokens masked.
    """

    def __init__(self, cut: Adaptive, masked: Adaptive) -> None:
        super().__init__()
        self.cut, self.masked = cut, masked
        self.training = masked.training
        for selection in selections(masked.model).values():
            selection.selector = _Replay()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The pruned network's outputs."""
        with torch.no_grad():
            self.cut(*args, **kwargs)
            for selection, decision in zip(selections(self.masked.model).values(), self.cut.decisions, strict=True):
                assert isinstance(selection.selector, _Replay)
                assert decision.weight is not None
                selection.selector.verdict = Verdict(decision.score, decision.weight)
            return self.masked(*args, **kwargs)


class _Replay(nn.Module):
    """Says what another selector said."""

    verdict: Verdict | None = None

    def forward(self, seen: Candidates) -> Verdict:
        """See `edakari.surgery.tokens.selectors.Selector`."""
        if self.verdict is None:
            raise PlanError("a selector that repeats another one's verdict was asked before that one")
        return self.verdict
