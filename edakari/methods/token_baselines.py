"""Baselines of token pruning: random, by a learned score, by the attention of the class token, and by merging."""

from __future__ import annotations

from typing import Any, ClassVar

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import KeepTokens
from edakari.core.settings import PositiveFraction, Whole, settings
from edakari.methods.tokens.method import TokenTraining, prune_tokens_by, sites_of
from edakari.surgery.tokens import TokenSites
from edakari.surgery.tokens.design import TokenDesign, linear
from edakari.surgery.tokens.selectors import Start
from edakari.surgery.tokens.unmerging import Unmerge

__all__ = ["AttentionTokens", "MergedTokens", "PredictedTokens", "RandomTokens"]

TOKENS = frozenset({KeepTokens})


@register("random_tokens")
@settings
class RandomTokens:
    """Drop tokens at random.

    Args:
        blocks: indices, from 0, of the blocks in front of which tokens are pruned; empty is after each quarter.
        keep_ratios: fraction of all patches left at each of these blocks; empty takes the largest ones within the
            budget.
        packed: add a package of the pruned tokens.
    """

    paper: ClassVar[str] = "none; a baseline"
    emits: ClassVar[frozenset[type[Any]]] = TOKENS

    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()
    packed: bool = False

    def design(self, sites: TokenSites, seed: int = 0) -> TokenDesign:
        """Return the selectors and their blocks.

        Args:
            sites: blocks of the network in front of which tokens can be pruned.
            seed: seed of the random choice.
        """
        return TokenDesign(
            sites=sites,
            selector="random",
            blocks=self.blocks or sites.quarters(),
            settings={"package": "merge" if self.packed else "none", "seed": seed},
            packages="one" if self.packed and not sites.staged else "none",
        )

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_tokens_by("random_tokens", job, self.design(sites_of(job), job.seed), self.keep_ratios)


@register("dynamicvit")
@settings
class PredictedTokens:
    """Keep the tokens that a learned predictor scores highest, the same number in every image.

    Args:
        blocks: indices, from 0, of the blocks in front of which predictors stand; empty is after each quarter.
        keep_ratios: fraction of all patches left behind each predictor; empty takes the largest ones within the budget.
        start: initial scores: "unlike" is the distance of a token from the mean of all tokens, "random" follows the
            authors.
        training: settings of the training of predictors and network.
    """

    paper: ClassVar[str] = (
        "Rao et al., DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification, NeurIPS 2021"
    )
    emits: ClassVar[frozenset[type[Any]]] = TOKENS

    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()
    # differs: the authors start with random scores, which are useless without training; we start as `spvit` does
    start: Start = "unlike"
    training: TokenTraining = TokenTraining(dual_rate=0.0, joint_rule="sample")

    @property
    def needs_data(self) -> bool:
        """Whether the method needs data; with `start="unlike"`, predictors choose well before any training."""
        return self.start == "random"

    def design(self, sites: TokenSites) -> TokenDesign:
        """Return the selectors and their blocks.

        Args:
            sites: blocks of the network in front of which tokens can be pruned.
        """
        return TokenDesign(
            sites=sites,
            selector="dynamicvit",
            blocks=self.blocks or sites.quarters(),
            settings={"start": self.start},
            packages="none",
        )

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        design = self.design(sites_of(job))
        return prune_tokens_by("dynamicvit", job, design, self.keep_ratios, self.training)


@register("evit")
@settings
class AttentionTokens:
    """Keep the tokens to which the class token attends most, without training.

    Args:
        blocks: indices, from 1, of the blocks in front of which tokens are pruned; empty is after each quarter.
        keep_ratios: fraction of all patches left at each of these blocks; empty takes the largest ones within the
            budget.
        fused: add the paper's fused token of the pruned tokens, one at each of these blocks.
    """

    paper: ClassVar[str] = "Liang et al., Expediting Vision Transformers via Token Reorganizations, ICLR 2022"
    emits: ClassVar[frozenset[type[Any]]] = TOKENS

    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()
    fused: bool = True

    def design(self, sites: TokenSites) -> TokenDesign:
        """Return the selectors and their blocks.

        Args:
            sites: blocks of the network in front of which tokens can be pruned.
        """
        return TokenDesign(
            sites=sites,
            selector="evit",
            blocks=self.blocks or sites.quarters(),
            settings={"package": "append" if self.fused else "none", "package_norm": "sum"},
            packages="each" if self.fused else "none",
        )

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_tokens_by("evit", job, self.design(sites_of(job)), self.keep_ratios)


@register("tome")
@settings
class MergedTokens:
    """Merge similar tokens, some at every block, without training.

    Args:
        blocks: indices, from 1, of the blocks in front of which tokens are merged; empty is all blocks.
        keep_ratios: fraction of all patches left at each of these blocks; empty takes the largest ones within the
            budget, with as many tokens merged at each.
        unmerge: give every patch the output of its merged token after the last block: "always", as heads with an output
            for each patch need it, "never", or "auto" if later parts pool over patches, which then weigh each token by
            its patches.
    """

    paper: ClassVar[str] = "Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023"
    emits: ClassVar[frozenset[type[Any]]] = TOKENS

    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()
    unmerge: Unmerge = "auto"

    def design(self, sites: TokenSites) -> TokenDesign:
        """Return the selectors and their blocks.

        Args:
            sites: blocks of the network in front of which tokens can be pruned.
        """
        blocks = self.blocks or tuple(range(1, len(sites.blocks)))
        settings = {} if self.unmerge == "auto" else {"unmerge": self.unmerge}
        return TokenDesign(
            sites=sites, selector="tome", blocks=blocks, settings=settings, packages="none", schedule=linear
        )

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_tokens_by("tome", job, self.design(sites_of(job)), self.keep_ratios)
