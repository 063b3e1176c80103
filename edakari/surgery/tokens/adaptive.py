"""A network with selectors that masks tokens, or removes each image's own number, instead of a fixed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edakari.surgery.tokens.pooling import TokenPooling
from edakari.surgery.tokens.state import Decision, Rule, Strategy, TokenState, running

__all__ = ["Adaptive"]

FLOOR = 1e-6
"""What masked keys count in training; the authors' epsilon."""


class Adaptive(nn.Module):
    """Runs a network whose blocks have gates.

    In training tokens are masked, and decisions have a gradient; in evaluation tokens go as asked for.

    Args:
        model: with selectors attached; called as before.
        strategy: of evaluation.
        rule: of evaluation: as many tokens as the plan says, or those above each selector's threshold.
        caps: most patches of an image behind the selector of a block, under "padded"; the fullest image otherwise.
        temperature: of decisions that are drawn.
        training_rule: which tokens go on in training: drawn by their scores, or as many as the plan says.
        edges: numbers of patches that images are filled up to under "bucketed", rising; at most 4 are of use.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy = "mask",
        rule: Rule = "count",
        *,
        caps: Mapping[str, int] | None = None,
        edges: tuple[int, ...] = (),
        temperature: float = 1.0,
        training_rule: Rule = "sample",
    ) -> None:
        super().__init__()
        self.model = model
        self.strategy, self.rule, self.temperature = strategy, rule, temperature
        self.training_rule = training_rule
        self.caps, self.edges, self.floor = dict(caps or {}), edges, 0.0
        self.decisions: tuple[Decision, ...] = ()
        self.tokens: torch.Tensor | None = None
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's outputs; what each selector decided is in `decisions` until the next pass.

        The tokens behind the last block that has a gate are in `tokens`.
        """
        state = TokenState(
            strategy="mask" if self.training else self.strategy,
            rule=self.training_rule if self.training else self.rule,
            bias_floor=FLOOR if self.training else self.floor,
            caps=self.caps,
            edges=self.edges,
            temperature=self.temperature,
            record=True,
        )
        with running(state), TokenPooling(state):
            out = self.model(*args, **kwargs)
        self.decisions, self.tokens = tuple(state.decisions), state.tokens
        return out
