"""Which token selectors stand where in a network, and schedules of how many patches they keep."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence

from edakari.core.plan import KeepTokens
from edakari.errors import PlanError
from edakari.surgery.tokens.package_token import Packages
from edakari.surgery.tokens.selectors import needs_attention
from edakari.surgery.tokens.sites import TokenSites

__all__ = ["Counts", "Schedule", "TokenDesign", "geometric", "linear"]

Counts = tuple[int, ...]
"""Patches behind each selector, not rising."""

Schedule = Callable[[float, int, int], Counts]
"""From strength in [0, 1), patches and the number of selectors to counts."""


def geometric(strength: float, patches: int, selectors: int) -> Counts:
    """Each selector keeps the same fraction of what it gets, so that (1 - strength)^s of all remain behind the s-th."""
    return tuple(int(patches * (1 - strength) ** (index + 1) + 1e-9) for index in range(selectors))


def linear(strength: float, patches: int, selectors: int) -> Counts:
    """Each selector removes equally many patches, `strength` times half of all, and at most half of what it gets."""
    counts, left = [], patches
    for index in range(selectors):
        wanted = patches - round(strength * patches / 2 * (index + 1))
        left = max(1, wanted, left - left // 2)
        counts.append(left)
    return tuple(counts)


@dc.dataclass(frozen=True, kw_only=True)
class TokenDesign:
    """Which selectors stand where in a network.

    Args:
        sites: blocks of the network.
        selector: name of the selectors.
        blocks: indices of the blocks in front of which selectors stand, rising.
        settings: of the selectors, by name.
        packages: package tokens that the selectors leave.
        schedule: how many patches each selector keeps, by strength.
    """

    sites: TokenSites
    selector: str
    blocks: tuple[int, ...]
    settings: Mapping[str, bool | int | float | str] = dc.field(default_factory=dict)
    packages: Packages = "one"
    schedule: Schedule = geometric

    def edits(self, counts: Counts) -> tuple[KeepTokens, ...]:
        """The edits that keep these counts; selectors that would keep all are left out."""
        settings = tuple(sorted(self.settings.items()))
        before, found = dict(enumerate(self.sites.firsts().values())), []
        for index, count in zip(self.blocks, counts, strict=True):
            site = self.sites.blocks[index]
            if count < before[site.stage]:
                found.append(KeepTokens(site.name, count, self.selector, settings))
            before[site.stage] = min(before[site.stage], count)
        return tuple(found)

    def counts(self, strength: float) -> Counts:
        """Patches behind each selector; in networks with stages, the same fraction of each stage's."""
        if self.sites.staged:
            return tuple(int(self.sites.patches[index] * (1 - strength) + 1e-9) for index in self.blocks)
        return self.schedule(strength, self.sites.patches[0], len(self.blocks))

    def check(self) -> None:
        """Refuse blocks that cannot have the selectors.

        Raises:
            PlanError: there are none, they do not rise, the network has fewer blocks, or its stages do not suit the
            selector.
        """
        sites, depth = self.sites, len(self.sites.blocks)
        right = list(self.blocks) == sorted(set(self.blocks))
        if not self.blocks or not right or self.blocks[0] < 0 or self.blocks[-1] >= depth:
            raise PlanError(f"selectors stand in front of blocks 0 to {depth - 1}, rising, but got {self.blocks}")
        if sites.staged and needs_attention(self.selector):
            raise PlanError(
                f"{self.selector!r} looks at an attention over all tokens, but this network puts tokens back on a grid "
                "between stages; take spvit, dynamicvit or random_tokens"
            )
        stages = [sites.blocks[index].stage for index in self.blocks]
        if sites.staged and len(set(stages)) < len(stages):
            raise PlanError(
                f"a stage has one selector, but blocks {self.blocks} have several in one; the stages begin with blocks "
                f"{[sites.names.index(name) for name in sites.firsts()]}"
            )

    def counts_of(self, keep_ratios: Sequence[float]) -> Counts:
        """Counts from ratios that the user names: fractions of all patches, or of each stage's.

        Raises:
            PlanError: there is not one for each selector, they rise within one stage, or one lies outside of 0 to 1.
        """
        if len(keep_ratios) != len(self.blocks):
            raise PlanError(
                f"keep_ratios has {len(keep_ratios)} ratios for {len(self.blocks)} selectors; give one for each"
            )
        rising = not self.sites.staged and list(keep_ratios) != sorted(keep_ratios, reverse=True)
        if any(not 0 < ratio <= 1 for ratio in keep_ratios) or rising:
            raise PlanError(
                f"keep ratios lie above 0 and up to 1 and never rise from selector to selector, found {keep_ratios}"
            )
        patches = self.sites.patches
        return tuple(int(patches[index] * ratio + 1e-9) for index, ratio in zip(self.blocks, keep_ratios, strict=True))
