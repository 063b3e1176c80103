"""SPViT: learned selectors prune tokens of a vision transformer and merge them into package tokens.

Kong et al., ECCV 2022. The method in five steps: (1) choose numbers of tokens that meet the latency budget, from a
table of the latency of each block at each number of tokens; (2) insert a small selector in front of some blocks, which
decides from every head of a token whether the token is kept; (3) average pruned tokens, weighted by their scores, into
a package token; (4) train the selectors with masks of sampled decisions, towards the numbers of (1), with the dense
network as teacher; (5) at inference, keep as many tokens as planned in every image, or those above a threshold.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import KeepTokens
from edakari.core.settings import PositiveFraction, Whole, settings
from edakari.methods.tokens.method import TokenTraining, progressive_design, prune_tokens_by, sites_of
from edakari.methods.tokens.progressive import Progress
from edakari.surgery.tokens import PackageMode, PackageNorm, TokenSites
from edakari.surgery.tokens.design import TokenDesign
from edakari.surgery.tokens.package_token import Packages
from edakari.surgery.tokens.selectors import Start
from edakari.surgery.tokens.unmerging import Unmerge

__all__ = ["SoftTokenPruning"]


@register("spvit")
@settings
class SoftTokenPruning:
    """Prune tokens by learned selectors, and keep a package of the pruned tokens.

    Args:
        schedule: "geometric" keeps the same fraction of incoming tokens at each selector; "progressive" goes from the
            last block to the first, prunes each as far as accuracy allows, and merges neighbouring blocks into phases.
        blocks: indices, from 0, of the blocks in front of which selectors stand; empty is after each quarter.
        keep_ratios: fraction of all patches behind each selector; empty takes the largest ones within the budget, with
            the same fraction of incoming tokens at each.
        package: use of pruned tokens: "merge" keeps one package of all, "add" and "append" are the authors' variants
            with one and with several packages, "none" drops the tokens.
        package_norm: "mean", or "sum" as in the authors' variant with several packages.
        proportional: let attention count a package as many times as it has tokens.
        unmerge: give every pruned patch its package's output after the last block: "always", "never", or "auto" if
            later parts pool over patches, which then weigh a package by its tokens.
        start: initial scores: "unlike" is the distance of a token from the mean of all tokens, "random" follows the
            authors.
        merge: mean by which the scores of the heads are merged: "geo" as in the authors' code, "arith" as in the paper.
        head_branch: weigh heads by their importance.
        share_head_mlp: use one set of selector weights for all heads.
        training: settings of the training of selectors and network.
        progress: settings of the progressive schedule; the geometric one does not use them.
    """

    paper: ClassVar[str] = (
        "Kong et al., SPViT: Enabling Faster Vision Transformers via Latency-aware Soft Token Pruning, ECCV 2022"
    )
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepTokens})

    schedule: Literal["geometric", "progressive"] = "geometric"
    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()
    # differs: the authors use one package with a mean, or three with sums; several packages lose less information
    package: PackageMode = "append"
    package_norm: PackageNorm = "mean"
    # differs: the authors' packages count as one token, which gives pruned tokens far less weight than before
    proportional: bool = True
    unmerge: Unmerge = "never"
    start: Start = "unlike"
    merge: Literal["geo", "arith"] = "geo"
    head_branch: bool = True
    share_head_mlp: bool = True
    training: TokenTraining = TokenTraining()
    progress: Progress = Progress()

    @property
    def needs_data(self) -> bool:
        """Whether the method needs data; with `start="unlike"`, selectors choose well before any training."""
        return self.start == "random" or self.schedule == "progressive"

    def design(self, sites: TokenSites) -> TokenDesign:
        """Return the selectors and their blocks; staged networks get no packages.

        Args:
            sites: blocks of the network in front of which selectors can be inserted.
        """
        packed: dict[str, bool | str] = {"package": self.package, "package_norm": self.package_norm}
        packed["proportional"] = self.proportional
        if self.unmerge != "never":
            packed["unmerge"] = self.unmerge
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
        design, start = self.design(sites_of(job)), None
        if self.schedule == "progressive" and not self.keep_ratios:
            design, start = progressive_design(job, design, self.training, self.progress)
        return prune_tokens_by("spvit", job, design, self.keep_ratios, self.training, start)
