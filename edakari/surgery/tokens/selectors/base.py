"""The protocol of selectors, which give each token a score and a weight."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from edakari.core.registry import Registry
from edakari.errors import PlanError

__all__ = [
    "MERGER",
    "SELECTORS",
    "Candidates",
    "Selector",
    "Site",
    "TrainedSelector",
    "Verdict",
    "begin_at",
    "build_selector",
    "needs_attention",
    "selector",
]

MERGER = "tome"
"""Value of `KeepTokens.selector` for tokens that are merged, not selected."""


@dc.dataclass(frozen=True, slots=True)
class Candidates:
    """Input of a selector: patches, then packages of earlier selectors, without the prefix.

    Args:
        x: features of the tokens, [B, N, C].
        alive: 1 for present tokens, 0 for masked tokens, float [B, N].
        patches: number of patches.
        index: index of each patch in the grid, long [B, patches].
        prefix: number of prefix tokens before them.
        attended: query and key of the last attention, [batch, heads, prefix + N, channels]; None if unknown.
    """

    x: torch.Tensor
    alive: torch.Tensor
    patches: int
    index: torch.Tensor
    prefix: int
    attended: tuple[torch.Tensor, torch.Tensor] | None


@dc.dataclass(frozen=True, slots=True)
class Verdict:
    """Output of a selector for each patch.

    Args:
        score: logit of keeping each patch, [B, patches].
        weight: weight of each patch in the package if it is pruned, [B, patches].
    """

    score: torch.Tensor
    weight: torch.Tensor


class Selector(Protocol):
    """A module that scores tokens; it is deterministic, and images do not depend on each other."""

    def __call__(self, seen: Candidates) -> Verdict:
        """Score the tokens."""


@runtime_checkable
class TrainedSelector(Selector, Protocol):
    """A selector whose scores are trained as logits."""

    def odds_bias(self) -> nn.Parameter:
        """Return the bias of the logits of keeping and of pruning a token, [..., 2]; scores are their difference."""


def begin_at(selector: Any, fraction: float) -> None:
    """Shift the scores of a selector, so that a score of 0 before keeps a token with a probability.

    Args:
        selector: a selector; nothing changes if its scores are not trained.
        fraction: the probability; nothing changes at 0 and 1, which no score has.
    """
    if isinstance(selector, TrainedSelector) and 0 < fraction < 1:
        shift = math.log(fraction / (1 - fraction))
        with torch.no_grad():
            bias = selector.odds_bias()
            bias[..., 0] += shift / 2
            bias[..., 1] -= shift / 2


@dc.dataclass(frozen=True, slots=True)
class Site:
    """Position of a selector in a network.

    Args:
        width: channels of a token.
        heads: number of heads of the block after it.
        patches: number of patches of the dense network.
        index: index of its block, counted from 0.
    """

    width: int
    heads: int
    patches: int
    index: int


S = TypeVar("S", bound=Callable[..., nn.Module])
SELECTORS: Registry[Callable[..., nn.Module]] = Registry("selector of tokens", "edakari.selectors", files=False)
"""What makes a selector from a `Site` and its settings. Plans name selectors, and no file runs that only a plan names:
so a selector of one's own is registered by a program, or offered by an installed package."""


def selector(name: str, *, attention: bool = False) -> Callable[[S], S]:
    """Class decorator that registers a selector for plans.

    Args:
        name: name for `KeepTokens.selector`.
        attention: whether it needs the attention of the block before it.
    """

    def add(cls: S) -> S:
        SELECTORS.add(name, cls)
        cls.looks_at_attention = attention  # type: ignore[attr-defined]
        return cls

    return add


def needs_attention(name: str) -> bool:
    """Return whether a selector, or the merger, needs the attention of the block before it.

    Raises:
        UnknownName: there is no such selector.
    """
    return name == MERGER or bool(getattr(SELECTORS.named(name), "looks_at_attention", False))


def build_selector(name: str, site: Site, settings: dict[str, Any], seed: int = 0) -> nn.Module:
    """Build a selector with reproducible initial weights.

    Args:
        name: value of `KeepTokens.selector`.
        site: position of the selector.
        settings: settings of the selector.
        seed: seed of its initial weights.

    Raises:
        UnknownName: there is no such selector.
        PlanError: the selector does not take these settings.
    """
    make = SELECTORS.named(name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((1000 * seed + site.index) % 2**63)
            return make(site, **settings)
    except TypeError as error:
        raise PlanError(f"selector {name!r} does not take the settings {settings}: {error}") from None
