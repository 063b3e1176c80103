"""Training of token selectors: losses, the constraint on how many tokens stay, and thresholds that meet it."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edakari.core.method import Job
from edakari.core.modes import eval_mode
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Hook, Objective, StepState
from edakari.core.settings import NonNegative, settings
from edakari.surgery.tokens import Adaptive, Decision, TokenSite, gates, selections
from edakari.surgery.tokens.patches import patch_tokens, patches_of

__all__ = [
    "DualAscent",
    "TokenLoss",
    "TokenTrainer",
    "calibrate",
    "imitation",
    "kept_ratios",
    "ratio_loss",
    "token_distance",
    "token_divergence",
]

BOUND = 5.0
"""Of a multiplier."""


def kept_ratios(decisions: Sequence[Decision]) -> torch.Tensor:
    """Share of all patches of a batch that each selector keeps, [selectors]: one mean over all images, so that images
    may keep different numbers.
    """
    return torch.stack([decision.kept.mean() for decision in decisions])


def ratio_loss(kept_S: torch.Tensor, target_S: torch.Tensor) -> torch.Tensor:
    """Mean square of what is kept less what is to be kept (the authors' code; the meaning of the paper's
    latency-sparsity loss, where the targets come from the table of latencies).
    """
    return ((kept_S - target_S) ** 2).mean()


@settings
class TokenLoss:
    """Weights of the terms; the authors' code has these.

    Args:
        ratio: of the squared distance from the ratios to be kept.
        logits: of the divergence from the dense network's outputs.
        tokens: of the distance from its tokens, over those that are left; of what is said of them where a head says
            something of every patch.
    """

    ratio: NonNegative = 2.0
    logits: NonNegative = 0.5
    tokens: NonNegative = 0.5


class DualAscent(Hook):
    """Multipliers that rise while too many tokens stay and fall while too few do; so the constraint is met.

    differs: the authors have a penalty alone, and their logs miss the targets by 7 to 9 points.
    """

    def __init__(self, targets: Sequence[float], rate: float) -> None:
        self.targets, self.rate = torch.tensor(targets), rate
        self.multipliers = torch.zeros(len(targets))
        self.kept = self.targets.clone()

    def term(self, kept_S: torch.Tensor) -> torch.Tensor:
        """What a step adds to the loss."""
        self.kept = kept_S.detach()
        over = kept_S - self.targets.to(kept_S)
        return (self.multipliers.to(kept_S) * over).sum()

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        here = Processes.here()
        kept = here.reduced(self.kept) / here.world
        step = self.rate * (kept.cpu().float() - self.targets)
        self.multipliers = (self.multipliers + step).clamp(-BOUND, BOUND)

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        return {"multipliers": self.multipliers.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self.multipliers = torch.tensor(state["multipliers"])


@dc.dataclass
class TokenTrainer:
    """A network with selectors in training.

    Args:
        job: of the method.
        student: masks tokens, by decisions that are drawn.
        teacher: the dense network; frozen.
        last: block behind which tokens are compared.
        targets: fraction of all patches that each selector is to keep.
        loss: weights of the terms.
        dual: multipliers of the constraint; None leaves the penalty alone.
    """

    job: Job
    student: Adaptive
    teacher: nn.Module
    last: TokenSite
    targets: Sequence[float]
    loss: TokenLoss
    dual: DualAscent | None = None

    def selector_parameters(self) -> list[nn.Parameter]:
        """What is trained while the network is frozen."""
        return [parameter for gate in gates(self.student.model) for parameter in gate.parameters()]

    def objective(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Task, ratio, logits and tokens (the authors' code, losses.py; weights in `TokenLoss`)."""
        task = self.job.task
        with patches_of(self.student.model, self.last) as mine:
            outputs = task.outputs(model, batch)
        decisions = self.student.decisions
        if self.student.tokens is not None and self._stage(decisions[-1]):
            mine.tokens = patch_tokens(
                self.student.tokens, self.last
            )  # those of the hook lack gradient where it is cut
        teacher = self.teacher.to(outputs.device)
        with eval_mode(teacher), torch.no_grad(), patches_of(teacher, self.last) as theirs:
            aims = task.outputs(teacher, batch)
        kept_S = kept_ratios(decisions)
        terms = dict(task.loss(outputs, batch))
        terms["ratio"] = self.loss.ratio * ratio_loss(kept_S, torch.tensor(self.targets).to(kept_S))
        if self.dual is not None:
            terms["constraint"] = self.dual.term(kept_S)
        if isinstance(outputs, torch.Tensor) and isinstance(aims, torch.Tensor):
            student, aim = (functional.log_softmax(each.float(), dim=-1) for each in (outputs, aims))
            terms["logits"] = self.loss.logits * functional.kl_div(student, aim, log_target=True, reduction="batchmean")
        left_BN = self._left(mine.tokens, decisions[-1])
        if mine.logits is not None and theirs.logits is not None:
            terms["tokens"] = self.loss.tokens * token_divergence(mine.logits, theirs.logits, left_BN)
        else:
            terms["tokens"] = self.loss.tokens * token_distance(mine.tokens, theirs.tokens, left_BN)
        return terms

    def _left(self, tokens_BNC: torch.Tensor, decision: Decision) -> torch.Tensor:
        """Which patches are left behind the last block: all where its stage has no selector."""
        return decision.kept if self._stage(decision) else torch.ones_like(tokens_BNC[..., 0])

    def _stage(self, decision: Decision) -> bool:
        """Whether a selector stands in the stage of the last block."""
        return decision.block.rpartition(".")[0] == self.last.name.rpartition(".")[0]


def token_distance(mine_BNC: torch.Tensor, theirs_BNC: torch.Tensor, kept_BN: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the patches that are left, each token normalised; packages are left out.

    differs: the authors compare behind the final layer norm; tokens are normalised without its weights here, since not
    every network has one.

    Args:
        mine_BNC: patches of the network in training.
        theirs_BNC: of the dense one.
        kept_BN: 1 where a patch is left behind the last selector.
    """
    width = mine_BNC.shape[-1:]
    mine, theirs = (functional.layer_norm(each.float(), width) for each in (mine_BNC, theirs_BNC))
    return _mean_of_left(((mine - theirs) ** 2).mean(-1), kept_BN)


def token_divergence(mine_BNK: torch.Tensor, theirs_BNK: torch.Tensor, kept_BN: torch.Tensor) -> torch.Tensor:
    """Mean divergence of what is said of each patch that is left, for heads that say something of every patch (the
    authors' loss for LV-ViT).

    Args:
        mine_BNK: logits of the network in training; of masked patches they may be -inf.
        theirs_BNK: of the dense one.
        kept_BN: 1 where a patch is left behind the last selector.
    """
    gone_BN1 = kept_BN.detach()[..., None] == 0
    mine, aim = (
        functional.log_softmax(each.float().masked_fill(gone_BN1, 0.0), dim=-1) for each in (mine_BNK, theirs_BNK)
    )
    return _mean_of_left(functional.kl_div(mine, aim, log_target=True, reduction="none").sum(-1), kept_BN)


def _mean_of_left(each_BN: torch.Tensor, kept_BN: torch.Tensor) -> torch.Tensor:
    kept_BN = kept_BN.detach()
    return (each_BN * kept_BN).sum() / kept_BN.sum().clamp_min(1.0)


def imitation(trainer: TokenTrainer, scores_of: Callable[[Batch], Sequence[torch.Tensor]]) -> Objective:
    """Selectors learn to keep what a teacher's scores rank highest, without labels; the network stays as it is.

    differs: the authors' selectors begin with random weights; these begin with what attention says of tokens.

    Args:
        trainer: of the network.
        scores_of: for a batch, scores of all patches for each selector, [B, N] each.
    """

    def objective(model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        aims = scores_of(batch)
        trainer.job.task.outputs(model, batch)
        total = torch.zeros(())
        for decision, aim, share in zip(trainer.student.decisions, aims, trainer.targets, strict=True):
            keep = _highest(aim.to(decision.score), share)
            alive = torch.isfinite(decision.score)
            each = functional.binary_cross_entropy_with_logits(
                torch.where(alive, decision.score, torch.zeros_like(decision.score)), keep, reduction="none"
            )
            total = total.to(each) + (each * alive).sum() / alive.sum().clamp_min(1)
        return {"imitation": total}

    return objective


def _highest(score_BN: torch.Tensor, share: float) -> torch.Tensor:
    count = max(1, int(share * score_BN.shape[1]))
    indices = score_BN.topk(count, dim=1).indices
    return torch.zeros_like(score_BN).scatter(1, indices, 1.0)


@torch.no_grad()
def calibrate(model: nn.Module, outputs: Callable[[nn.Module, Batch], Any], batches: Sequence[Batch]) -> dict[str, int]:
    """Set the threshold of each selector so that it keeps on average what the plan says, one after the other.

    Args:
        model: a network with selectors; their thresholds are set in place, its modes are left as found.
        outputs: runs a network on a batch.
        batches: to calibrate on.

    Returns:
        Patches that 95 % of images keep at most behind each selector, rounded up to 8, by block.
    """
    caps = {}
    for index, (block, selection) in enumerate(selections(model).items()):
        runner = Adaptive(model, "mask", "threshold")
        found = [_decision(runner, outputs, batch, index) for batch in batches]
        score = torch.cat([decision.score[torch.isfinite(decision.score)].flatten() for decision in found])
        images = sum(len(decision.kept) for decision in found)
        wanted = min(selection.settings.count * images, len(score))
        ranked = score.sort(descending=True).values
        threshold = ranked[wanted - 1] if wanted else ranked[0] + 1
        selection.get_buffer("threshold").copy_(threshold)
        counts = torch.cat([_decision(runner, outputs, batch, index).kept.sum(1) for batch in batches])
        caps[block] = -(-int(torch.quantile(counts.float(), 0.95)) // 8) * 8
    return caps


def _decision(runner: Adaptive, outputs: Callable[[nn.Module, Batch], Any], batch: Batch, index: int) -> Decision:
    with eval_mode(runner):
        outputs(runner, batch)
    return runner.decisions[index]
