"""SPViT: learned selectors drop tokens of a vision transformer, and what they drop leaves a package behind.

The story in five lines: (1) numbers of tokens are chosen so that the network meets its latency, from a table of how
long each block takes at each number; (2) a small selector in front of some blocks looks at every token head by head and
decides whether it goes on; (3) pruned tokens are averaged, by their scores, into one package token; (4) selectors are
trained with masks, by decisions that are drawn, towards the numbers of (1), and the dense network teaches; (5) in the
end as many tokens as planned go on in every image, or those above a threshold.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import KeepTokens
from edakari.core.settings import (
    PositiveFraction,
    Whole,
    settings,
)
from edakari.methods.tokens.method import TokenTraining, progressive_design, prune_tokens_by, sites_of
from edakari.methods.tokens.progressive import Progress
from edakari.surgery.tokens import PackageMode, PackageNorm, TokenSites
from edakari.surgery.tokens.design import TokenDesign
from edakari.surgery.tokens.package_token import Packages
from edakari.surgery.tokens.selectors import Start

__all__ = ["SoftTokenPruning"]


@register("spvit")
@settings
class SoftTokenPruning:
    """Prune tokens by learned selectors, and keep a package of the pruned tokens.

    Args:
        schedule: "geometric" keeps the same fraction of incoming tokens at each selector; "progressive" goes from the
            last block to the first, prunes each as far as accuracy allows, and merges neighbours into phases.
        blocks: indices, from 0, of the blocks in front of which selectors stand; empty is after each quarter.
        keep_ratios: fraction of all patches behind each selector; empty takes the largest ones within the budget, with
            the same fraction of incoming tokens at each.
        package: what becomes of pruned tokens: "merge" keeps one package of all, "add" and "append" are the authors'
            ways with one and with several packages, "none" drops the tokens.
        package_norm: "mean", or "sum" as in the authors' way with several packages.
        proportional: attention counts a package as many times as it has tokens.
        start: initial scores: "unlike" is the distance of a token from the mean of all tokens, "random" is what the
            authors use.
        merge: how the scores of the heads are merged: "geo" as in the authors' code, "arith" as in the paper.
        head_branch: weigh heads by their importance.
        share_head_mlp: use one set of selector weights for all heads.
        training: how selectors and network are trained.
        progress: how the progressive schedule goes; not used by the other one.
    """

    paper: ClassVar[str] = (
        "Kong et al., SPViT: Enabling Faster Vision Transformers via Latency-aware Soft Token Pruning, ECCV 2022"
    )
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepTokens})

    schedule: Literal["geometric", "progressive"] = "geometric"
    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()
    # differs: the authors' one package with a mean, or three with sums; what is behind many is kept better by several
    package: PackageMode = "append"
    package_norm: PackageNorm = "mean"
    # differs: the authors' packages count as one token, so that what was pruned is heard far less than before
    proportional: bool = True
    start: Start = "unlike"
    merge: Literal["geo", "arith"] = "geo"
    head_branch: bool = True
    share_head_mlp: bool = True
    training: TokenTraining = TokenTraining()
    progress: Progress = Progress()

    @property
    def needs_data(self) -> bool:
        """Whether it cannot do without data; selectors that start unlike the mean choose well before any training."""
        return self.start == "random" or self.schedule == "progressive"

    def design(self, sites: TokenSites) -> TokenDesign:
        """Which selectors stand where; positions that are skipped leave no package."""
        packed = {"package": self.package, "package_norm": self.package_norm, "proportional": self.proportional}
        packages: Packages = "each" if self.package == "append" else "one"
        return TokenDesign(
            sites=sites,
            selector="spvit",
            blocks=self.blocks or sites.quarters(),
            settings={
                **({} if sites.staged else packed),
                "start": self.start,
                "merge": self.merge,
                "head_branch": self.head_branch,
                "share_head_mlp": self.share_head_mlp,
            },
            packages="none" if self.package == "none" or sites.staged else packages,
        )

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        design = self.design(sites_of(job))
        if self.schedule == "progressive" and not self.keep_ratios:
            design = progressive_design(job, design, self.training, self.progress)
        return prune_tokens_by("spvit", job, design, self.keep_ratios, self.training)
