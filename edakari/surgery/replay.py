"""Masks of tokens and channels together: the cut network selects tokens, and the masked network repeats this."""

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

    Selectors fit the reduced width, so they cannot read the wider tokens of a network with masked channels. They read
    the tokens of the cut network, and their decisions are replayed in the masked network.

    Args:
        cut: the network with cut channels and masked tokens.
        masked: the network with masked channels and masked tokens, and selectors at the same blocks.
    """

    def __init__(self, cut: Adaptive, masked: Adaptive) -> None:
        super().__init__()
        self.cut, self.masked = cut, masked
        self.training = masked.training
        for selection in selections(masked.model).values():
            selection.selector = _Replay()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the pruned network's outputs."""
        with torch.no_grad():
            self.cut(*args, **kwargs)
            for selection, decision in zip(selections(self.masked.model).values(), self.cut.decisions, strict=True):
                assert isinstance(selection.selector, _Replay)
                assert decision.weight is not None
                selection.selector.verdict = Verdict(decision.score, decision.weight)
            return self.masked(*args, **kwargs)


class _Replay(nn.Module):
    """Repeats the decision of another selector."""

    verdict: Verdict | None = None

    def forward(self, seen: Candidates) -> Verdict:
        """See `edakari.surgery.tokens.selectors.Selector`."""
        if self.verdict is None:
            raise PlanError("a selector that repeats another one's verdict ran before that one")
        return self.verdict
