"""The baselines of token pruning: by chance, by a learned score, by the class token's attention, and by merging."""

from __future__ import annotations

from typing import Any, ClassVar

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import KeepTokens
from edakari.core.protocols import Precision
from edakari.core.settings import LearningRate, PositiveFraction, Whole, settings
from edakari.methods.tokens.counts import TokenDesign, linear
from edakari.methods.tokens.method import TokenTraining, prune_tokens_by, sites_of
from edakari.methods.tokens.training import TokenLoss
from edakari.surgery.tokens import TokenSites
from edakari.surgery.tokens.selectors import Start

__all__ = ["AttentionTokens", "MergedTokens", "PredictedTokens", "RandomTokens"]

TOKENS = frozenset({KeepTokens})


@register("random_tokens")
@settings
class RandomTokens:
    """Drop tokens by chance.

    Args:
        blocks: places of the blocks in front of which tokens go, from 0; empty is after each quarter.
        keep_ratios: shares of all patches left at each; empty is the mildest within the budget.
        packed: whether the dropped leave a package.
    """

    paper: ClassVar[str] = "none; the baseline under all others"
    emits: ClassVar[frozenset[type[Any]]] = TOKENS

    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()
    packed: bool = False

    def design(self, sites: TokenSites, seed: int = 0) -> TokenDesign:
        """Which selectors stand where."""
        return TokenDesign(
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
    """Keep the tokens that a learned predictor scores highest; the same number in every image.

    Args:
        blocks: places of the blocks in front of which predictors stand, from 0; empty is after each quarter.
        keep_ratios: shares of all patches left at each; empty is the mildest within the budget.
        start: what scores begin as: "unlike" is how unlike the mean of all tokens a token is, "random" the authors'.
        imitation_epochs: in which predictors learn what attention would keep, without labels; the paper has none.
        selector_epochs: of predictors alone.
        joint_epochs: of predictors and network.
        selector_lr: peak learning rate of predictors alone.
        joint_lr: of predictors and network together.
        precision: of the training: "auto", "fp32", "bf16" or "fp16".
    """

    paper: ClassVar[str] = (
        "Rao et al., DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification, NeurIPS 2021"
    )
    emits: ClassVar[frozenset[type[Any]]] = TOKENS

    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()
    # differs: the authors begin with random scores, which are of no use without training; this is where `spvit` begins
    start: Start = "unlike"
    imitation_epochs: Whole = 0
    selector_epochs: Whole = 5
    joint_epochs: Whole = 25
    selector_lr: LearningRate = 5e-4
    joint_lr: LearningRate = 5e-5
    precision: Precision = "fp32"

    def design(self, sites: TokenSites) -> TokenDesign:
        """Which selectors stand where."""
        return TokenDesign(
            selector="dynamicvit",
            blocks=self.blocks or sites.quarters(),
            settings={"start": self.start},
            packages="none",
        )

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        design = self.design(sites_of(job))
        training = TokenTraining(
            imitation_epochs=self.imitation_epochs,
            selector_epochs=self.selector_epochs,
            joint_epochs=self.joint_epochs,
            lr=self.selector_lr,
            joint_lr=self.joint_lr,
            weight_decay=0.05,
            precision=self.precision,
            loss=TokenLoss(ratio=2.0, logits=0.5, tokens=0.5),
            dual_rate=0.0,
            batches=16,
        )
        return prune_tokens_by("dynamicvit", job, design, self.keep_ratios, training)


@register("evit")
@settings
class AttentionTokens:
    """Keep the tokens that the class token looks at most; needs no training.

    Args:
        blocks: places of the blocks in front of which tokens go, from 1; empty is after each quarter.
        keep_ratios: shares of all patches left at each; empty is the mildest within the budget.
        fused: whether the others leave the paper's fused token, one at each place.
    """

    paper: ClassVar[str] = "Liang et al., Expediting Vision Transformers via Token Reorganizations, ICLR 2022"
    emits: ClassVar[frozenset[type[Any]]] = TOKENS

    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()
    fused: bool = True

    def design(self, sites: TokenSites) -> TokenDesign:
        """Which selectors stand where."""
        return TokenDesign(
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
    """Merge tokens that are alike, some at every block; needs no training.

    Args:
        blocks: places of the blocks in front of which tokens are merged, from 1; empty is all.
        keep_ratios: shares of all patches left at each; empty is the mildest within the budget, as many merged at each.
    """

    paper: ClassVar[str] = "Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023"
    emits: ClassVar[frozenset[type[Any]]] = TOKENS

    blocks: tuple[Whole, ...] = ()
    keep_ratios: tuple[PositiveFraction, ...] = ()

    def design(self, sites: TokenSites) -> TokenDesign:
        """Which selectors stand where."""
        blocks = self.blocks or tuple(range(1, len(sites.blocks)))
        return TokenDesign(selector="tome", blocks=blocks, packages="none", schedule=linear)

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        return prune_tokens_by("tome", job, self.design(sites_of(job)), self.keep_ratios)
