"""Positions and kinds of token selectors, and schedules of how many patches they keep."""

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
"""Number of patches after each selector, non-increasing."""

Schedule = Callable[[float, int, int], Counts]
"""Function from a strength in [0, 1), the number of patches and the number of selectors to counts."""


def geometric(strength: float, patches: int, selectors: int) -> Counts:
    """Keep the same fraction at each selector, so that (1 - strength)^s of all patches remain after the s-th."""
    return tuple(int(patches * (1 - strength) ** (index + 1) + 1e-9) for index in range(selectors))


def linear(strength: float, patches: int, selectors: int) -> Counts:
    """Remove equally many patches at each selector: `strength` times half of all, at most half of its input."""
    counts, left = [], patches
    for index in range(selectors):
        wanted = patches - round(strength * patches / 2 * (index + 1))
        left = max(1, wanted, left - left // 2)
        counts.append(left)
    return tuple(counts)


@dc.dataclass(frozen=True, kw_only=True)
class TokenDesign:
    """Kinds and positions of the selectors of a network.

    Args:
        sites: blocks of the network.
        selector: name of the kind of selector.
        blocks: indices of the blocks that have a selector before them, increasing.
        settings: settings of the selectors, by name.
        packages: package tokens that the selectors make.
        schedule: how many patches each selector keeps, by strength.
    """

    sites: TokenSites
    selector: str
    blocks: tuple[int, ...]
    settings: Mapping[str, bool | int | float | str] = dc.field(default_factory=dict)
    packages: Packages = "one"
    schedule: Schedule = geometric

    def edits(self, counts: Counts) -> tuple[KeepTokens, ...]:
        """Return the edits that keep these counts; selectors that would keep all patches are omitted."""
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
        """Raise an error if the blocks cannot have the selectors.

        Raises:
            PlanError: there are no blocks, they are not increasing, the network has fewer blocks, or its stages do not
                fit the selector.
        """
        sites, depth = self.sites, len(self.sites.blocks)
        right = list(self.blocks) == sorted(set(self.blocks))
        if not self.blocks or not right or self.blocks[0] < 0 or self.blocks[-1] >= depth:
            raise PlanError(f"selectors need increasing block indices from 0 to {depth - 1}, but got {self.blocks}")
        if sites.staged and needs_attention(self.selector):
            raise PlanError(
                f"{self.selector!r} needs an attention over all tokens, but this network puts tokens back on a grid "
                "between stages; use spvit, dynamicvit or random_tokens"
            )
        stages = [sites.blocks[index].stage for index in self.blocks]
        if sites.staged and len(set(stages)) < len(stages):
            raise PlanError(
                f"a stage can have one selector, but blocks {self.blocks} put several into one; the stages begin at "
                f"blocks {[sites.names.index(name) for name in sites.firsts()]}"
            )

    def counts_of(self, keep_ratios: Sequence[float]) -> Counts:
        """Compute counts from the user's ratios: fractions of all patches, or of each stage's patches.

        Raises:
            PlanError: the number of ratios is wrong, ratios increase within a stage, or a ratio is outside 0 to 1.
        """
        if len(keep_ratios) != len(self.blocks):
            raise PlanError(
                f"keep_ratios has {len(keep_ratios)} ratios for {len(self.blocks)} selectors; give one for each"
            )
        rising = not self.sites.staged and list(keep_ratios) != sorted(keep_ratios, reverse=True)
        if any(not 0 < ratio <= 1 for ratio in keep_ratios) or rising:
            raise PlanError(f"keep_ratios must be above 0 and at most 1, and must not increase, but got {keep_ratios}")
        patches = self.sites.patches
        return tuple(int(patches[index] * ratio + 1e-9) for index, ratio in zip(self.blocks, keep_ratios, strict=True))
