"""What a selector is: it looks at tokens and gives each a score and a weight."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

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
    "Verdict",
    "build_selector",
    "needs_attention",
    "selector",
]

MERGER = "tome"
"""In `KeepTokens.selector`: tokens are merged, not selected."""


@dc.dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens in front of a selector: patches, then packages of earlier selectors; no prefix.

    Args:
        x: their features, [B, N, C].
        alive: 1 where a token is there, 0 where it was pruned and only kept in the tensor, float [B, N].
        patches: how many are patches.
        index: for each patch, its place in the grid, long [B, patches].
        prefix: tokens in front of them, as the network has them.
        attended: query and key of the last attention, [batch, heads, prefix + N, channels]; None where none was seen.
    """

    x: torch.Tensor
    alive: torch.Tensor
    patches: int
    index: torch.Tensor
    prefix: int
    attended: tuple[torch.Tensor, torch.Tensor] | None


@dc.dataclass(frozen=True, slots=True)
class Verdict:
    """What a selector thinks of each patch.

    Args:
        score: logit to stay, [B, patches].
        weight: weight in the package if it goes, [B, patches].
    """

    score: torch.Tensor
    weight: torch.Tensor


class Selector(Protocol):
    """A module that judges tokens; equal inputs give equal verdicts, and no image depends on another."""

    def __call__(self, seen: Candidates) -> Verdict:
        """Judge tokens."""


@dc.dataclass(frozen=True, slots=True)
class Site:
    """Where a selector is to stand.

    Args:
        width: channels of a token.
        heads: of the block behind it.
        patches: of the dense network.
        index: of its block, counted from 0.
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
    """Class decorator that makes a selector known to plans.

    Args:
        name: in `KeepTokens.selector`.
        attention: whether it looks at the attention of the block before it.
    """

    def add(cls: S) -> S:
        SELECTORS.add(name, cls)
        cls.looks_at_attention = attention  # type: ignore[attr-defined]
        return cls

    return add


def needs_attention(name: str) -> bool:
    """Whether a selector, or the merger, looks at the attention of the block before it.

    Raises:
        UnknownName: there is no such selector.
    """
    return name == MERGER or bool(getattr(SELECTORS.named(name), "looks_at_attention", False))


def build_selector(name: str, site: Site, settings: dict[str, Any], seed: int = 0) -> nn.Module:
    """A selector with its first weights, the same every time.

    Args:
        name: in `KeepTokens.selector`.
        site: where it stands.
        settings: of the selector.
        seed: of its first weights.

    Raises:
        UnknownName: there is no such selector.
        PlanError: it does not take these settings.
    """
    make = SELECTORS.named(name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((1000 * seed + site.index) % 2**63)
            return make(site, **settings)
    except TypeError as error:
        raise PlanError(f"selector {name!r} does not take the settings {settings}: {error}") from None
