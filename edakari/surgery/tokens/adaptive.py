"""A network with selectors that masks tokens, or removes a different number of tokens for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edakari.surgery.tokens.pooling import TokenPooling
from edakari.surgery.tokens.state import Decision, Rule, Strategy, TokenState, running

__all__ = ["Adaptive"]

FLOOR = 1e-6
"""Weight of masked keys in training; the authors' epsilon."""


class Adaptive(nn.Module):
    """Runs a network with token selectors in a chosen strategy.

    In training, decisions have a gradient; tokens are masked, unless the strategy says otherwise. In evaluation,
    tokens are removed by the strategy.

    Args:
        model: the network with attached selectors; it is called as before.
        strategy: strategy in evaluation.
        rule: rule in evaluation: the plan's number of tokens, or the tokens above each selector's threshold.
        caps: for "padded", the largest number of patches per image after each block's selector; otherwise the number
            of the fullest image.
        temperature: temperature of sampled decisions.
        training_rule: rule in training: tokens sampled by their scores, or the plan's number of tokens.
        training_strategy: strategy in training; "topk" removes tokens and needs the plan's number of tokens.
        edges: for "bucketed", increasing numbers of patches to which images are padded; at most 4 are useful.
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
        training_strategy: Strategy = "mask",
    ) -> None:
        super().__init__()
        self.model = model
        self.strategy, self.rule, self.temperature = strategy, rule, temperature
        self.training_rule, self.training_strategy = training_rule, training_strategy
        self.caps, self.edges, self.floor = dict(caps or {}), edges, 0.0
        self.decisions: tuple[Decision, ...] = ()
        self.tokens: torch.Tensor | None = None
        self.removed = False
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the network's outputs; `decisions` holds each selector's decision until the next pass.

        `tokens` holds the tokens after the last block with a gate; `removed` says whether pruned ones are missing.
        """
        state = TokenState(
            strategy=self.training_strategy if self.training else self.strategy,
            rule=self.training_rule if self.training else self.rule,
            bias_floor=FLOOR if self.training else self.floor,
            caps=self.caps,
            edges=self.edges,
            temperature=self.temperature,
            record=True,
            learns=self.training,
        )
        with running(state), TokenPooling(state):
            out = self.model(*args, **kwargs)
        self.decisions, self.tokens = tuple(state.decisions), state.tokens
        self.removed = state.strategy == "topk" and state.index is not None
        return out
