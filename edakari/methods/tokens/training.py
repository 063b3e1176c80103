"""Training of token selectors: losses, the constraint on the number of kept tokens, and the thresholds.

Shapes: B images, S selectors, N patches, C channels, K classes.
"""

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
from edakari.methods.tokens.stored_teacher import StoredTeacher
from edakari.surgery.tokens import Adaptive, Decision, TokenSite, gates, selections
from edakari.surgery.tokens.patches import Patches, patch_tokens, patches_of

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
"""Largest absolute value of a multiplier."""


def kept_ratios(decisions: Sequence[Decision]) -> torch.Tensor:
    """Return the fraction of all patches of a batch that each selector keeps.

    The fraction is one mean over all images, so that images may keep different numbers of patches.

    Args:
        decisions: decision of each selector for the batch.

    Returns:
        float [S].
    """
    return torch.stack([decision.kept.mean() for decision in decisions])


def ratio_loss(ratios_S: torch.Tensor, targets_S: torch.Tensor) -> torch.Tensor:
    """Mean squared difference between kept and target fractions.

    The authors' code has this form of the paper's latency-sparsity loss, whose targets come from the latency table.

    Args:
        ratios_S: fraction of patches that each selector keeps, float [S].
        targets_S: fraction that each selector has to keep, float [S].
    """
    return ((ratios_S - targets_S) ** 2).mean()


@settings
class TokenLoss:
    """Weights of the terms of the loss; the defaults are those of the authors' code.

    Args:
        ratio: weight of the squared distance between kept and target ratios.
        logits: weight of the divergence from the dense network's outputs.
        tokens: weight of the distance from the dense network's tokens, over the kept tokens; if the head has logits for
            every patch, of the divergence from the dense network's logits for the kept patches.
    """

    ratio: NonNegative = 2.0
    logits: NonNegative = 0.5
    tokens: NonNegative = 0.5


class DualAscent(Hook):
    """Lagrange multipliers that rise while too many tokens are kept and fall while too few are.

    Selectors follow slowly. Multipliers alone therefore grow until long after the ratio has met its target, and the
    ratio swings far below it. A quadratic term damps this, as in an augmented Lagrangian (Hestenes, 1969).

    differs: the authors use a penalty alone, and in their logs the ratios miss the targets by 7 to 9 points.

    Args:
        targets: fraction of all patches that each selector has to keep.
        rate: step size of the multipliers.
        damping: factor of half the squared deviation of each ratio.
    """

    def __init__(self, targets: Sequence[float], rate: float, damping: float = 0.0) -> None:
        self.targets, self.rate, self.damping = torch.tensor(targets), rate, damping
        self.multipliers = torch.zeros(len(targets))
        self.ratios = self.targets.clone()

    def term(self, ratios_S: torch.Tensor) -> torch.Tensor:
        """Return the Lagrangian term of a step, a scalar.

        Args:
            ratios_S: fraction of patches that each selector keeps, float [S].
        """
        self.ratios = ratios_S.detach()
        over = ratios_S - self.targets.to(ratios_S)
        return (self.multipliers.to(ratios_S) * over + 0.5 * self.damping * over.square()).sum()

    def after_step(self, state: StepState) -> None:
        """See `Hook`."""
        here = Processes.here()
        ratios = here.reduced(self.ratios) / here.world
        step = self.rate * (ratios.cpu().float() - self.targets)
        self.multipliers = (self.multipliers + step).clamp(-BOUND, BOUND)

    def state_dict(self) -> Mapping[str, Any]:
        """See `Hook`."""
        return {"multipliers": self.multipliers.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook`."""
        self.multipliers = torch.tensor(state["multipliers"])


@dc.dataclass
class TokenTrainer:
    """A network whose token selectors are being trained.

    Args:
        job: job of the method.
        student: network with selectors; it masks tokens by sampled decisions.
        teacher: dense network, frozen.
        last: block whose output tokens are compared with the teacher's.
        targets: fraction of all patches that each selector has to keep.
        loss: weights of the terms of the loss.
        dual: multipliers of the constraint; None uses the penalty alone.
        stored: the dense network's stored outputs; None runs it on every batch.
    """

    job: Job
    student: Adaptive
    teacher: nn.Module
    last: TokenSite
    targets: Sequence[float]
    loss: TokenLoss
    dual: DualAscent | None = None
    stored: StoredTeacher | None = None

    def selector_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the selectors, which are trained while the network is frozen."""
        return [parameter for gate in gates(self.student.model) for parameter in gate.parameters()]

    def objective(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Return the terms of the loss: task, ratio, logits and tokens, as in the authors' code (losses.py).

        Args:
            model: the student, possibly wrapped.
            batch: a batch of the task.
        """
        task = self.job.task
        with patches_of(self.student.model, self.last) as mine:
            outputs = task.outputs(model, batch)
        decisions = self.student.decisions
        if self.student.tokens is not None and self._stage(decisions[-1]):
            # the hook's tokens may lack gradients
            mine.tokens = patch_tokens(self.student.tokens, self.last)
        aims, theirs = self._taught(batch, outputs.device)
        ratios_S = kept_ratios(decisions)
        terms = dict(task.loss(outputs, batch))
        terms["ratio"] = self.loss.ratio * ratio_loss(ratios_S, torch.tensor(self.targets).to(ratios_S))
        if self.dual is not None:
            terms["constraint"] = self.dual.term(ratios_S)
        if isinstance(outputs, torch.Tensor) and isinstance(aims, torch.Tensor):
            student, aim = (functional.log_softmax(each.float(), dim=-1) for each in (outputs, aims))
            terms["logits"] = self.loss.logits * functional.kl_div(student, aim, log_target=True, reduction="batchmean")
        if self.loss.tokens:
            terms["tokens"] = self.loss.tokens * self._token_loss(mine, theirs, decisions[-1])
        return terms

    def _taught(self, batch: Batch, device: torch.device) -> tuple[Any, Patches]:
        """The dense network's outputs and patches."""
        if self.stored is not None:
            return self.stored(batch)
        teacher = self.teacher.to(device)
        with eval_mode(teacher), torch.no_grad(), patches_of(teacher, self.last) as theirs:
            aims = self.job.task.outputs(teacher, batch)
        return aims, theirs

    def _token_loss(self, mine: Patches, theirs: Patches, decision: Decision) -> torch.Tensor:
        """The distance between the two networks' outputs for the patches that are left."""
        left_BN = self._left(decision)
        labelled = mine.logits is not None and theirs.logits is not None
        own, aims = (mine.logits, theirs.logits) if labelled else (mine.tokens, theirs.tokens)
        assert own is not None
        assert aims is not None
        own = _on_grid(own, left_BN) if self.student.removed else own
        return token_divergence(own, aims, left_BN) if labelled else token_distance(own, aims, left_BN)

    def _left(self, decision: Decision) -> torch.Tensor:
        """Which patches are kept after the last block, float [B, N]; all if its stage has no selector."""
        if self._stage(decision):
            return decision.kept
        return torch.ones_like(decision.kept[:, :1]).expand(-1, self.last.patches)

    def _stage(self, decision: Decision) -> bool:
        """Whether the selector of a decision is in the stage of the last block."""
        return decision.block.rpartition(".")[0] == self.last.name.rpartition(".")[0]


def _on_grid(left_BKC: torch.Tensor, kept_BN: torch.Tensor) -> torch.Tensor:
    """Put the outputs of kept patches at their positions, [B, N, C]; packages may follow them."""
    count = int(kept_BN.detach()[0].sum())
    grid_BNC = left_BKC.new_zeros(*kept_BN.shape, left_BKC.shape[-1])
    return grid_BNC.masked_scatter(kept_BN.detach()[..., None] > 0, left_BKC[:, :count])


def token_distance(mine_BNC: torch.Tensor, theirs_BNC: torch.Tensor, kept_BN: torch.Tensor) -> torch.Tensor:
    """Mean squared distance between the kept patches of two networks, after normalising each token; no packages.

    differs: the authors compare tokens after the final layer norm. We normalise without its weights, since not every
    network has one.

    Args:
        mine_BNC: patches of the network in training, float [B, N, C].
        theirs_BNC: patches of the dense network, float [B, N, C].
        kept_BN: 1 for patches that the last selector keeps, float [B, N].
    """
    width = mine_BNC.shape[-1:]
    mine, theirs = (functional.layer_norm(each.float(), width) for each in (mine_BNC, theirs_BNC))
    return _mean_of_left(((mine - theirs) ** 2).mean(-1), kept_BN)


def token_divergence(mine_BNK: torch.Tensor, theirs_BNK: torch.Tensor, kept_BN: torch.Tensor) -> torch.Tensor:
    """Mean divergence between the logits of two networks for each kept patch (the authors' loss for LV-ViT).

    Args:
        mine_BNK: logits of the network in training, float [B, N, K]; for masked patches they may be -inf.
        theirs_BNK: logits of the dense network, float [B, N, K].
        kept_BN: 1 for patches that the last selector keeps, float [B, N].
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
    """Return an objective by which selectors learn to keep the patches that a teacher scores highest, without labels.

    differs: the authors train selectors from random weights; here they may first learn to imitate attention.

    Args:
        trainer: trainer of the network with selectors.
        scores_of: function from a batch to the scores of all patches for each selector, float [B, N] each.
    """

    def objective(model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        aims = scores_of(batch)
        trainer.job.task.outputs(model, batch)
        total = torch.zeros(())
        for decision, aim, ratio in zip(trainer.student.decisions, aims, trainer.targets, strict=True):
            target = _highest(aim.to(decision.score), ratio)
            alive = torch.isfinite(decision.score)
            each = functional.binary_cross_entropy_with_logits(
                torch.where(alive, decision.score, torch.zeros_like(decision.score)), target, reduction="none"
            )
            total = total.to(each) + (each * alive).sum() / alive.sum().clamp_min(1)
        return {"imitation": total}

    return objective


def _highest(score_BN: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return 1 for the fraction of patches with the highest scores, 0 for the others, [B, N]."""
    count = max(1, int(ratio * score_BN.shape[1]))
    indices = score_BN.topk(count, dim=1).indices
    return torch.zeros_like(score_BN).scatter(1, indices, 1.0)


@torch.no_grad()
def calibrate(model: nn.Module, outputs: Callable[[nn.Module, Batch], Any], batches: Sequence[Batch]) -> dict[str, int]:
    """Set the threshold of each selector so that it keeps the planned number of patches on average.

    Goes from the first selector to the last, since each threshold changes the inputs of the later selectors.

    Args:
        model: network with selectors; their thresholds are set in place, and its modes are restored.
        outputs: function that runs a network on a batch.
        batches: batches from which the thresholds are set, the same on all processes; each runs its part.

    Returns:
        Number of patches that 95 % of the images do not exceed, rounded up to a multiple of 8, by block.
    """
    caps, here = {}, Processes.here()
    for index, (block, selection) in enumerate(selections(model).items()):
        runner = Adaptive(model, "mask", "threshold")
        own = dict(here.numbered(batches))
        found = {number: _decision(runner, outputs, batch, index) for number, batch in own.items()}
        images = int(here.reduced(torch.tensor(sum(len(decision.kept) for decision in found.values()))))
        scores = {number: each.score[torch.isfinite(each.score)].flatten().cpu() for number, each in found.items()}
        score = torch.cat(here.joined(scores))
        wanted = min(selection.settings.count * images, len(score))
        ranked = score.sort(descending=True).values
        threshold = ranked[wanted - 1] if wanted else ranked[0] + 1
        selection.get_buffer("threshold").copy_(threshold)
        counts = {n: _decision(runner, outputs, batch, index).kept.sum(1).cpu() for n, batch in own.items()}
        caps[block] = -(-int(torch.quantile(torch.cat(here.joined(counts)).float(), 0.95)) // 8) * 8
    return caps


def _decision(runner: Adaptive, outputs: Callable[[nn.Module, Batch], Any], batch: Batch, index: int) -> Decision:
    with eval_mode(runner):
        outputs(runner, batch)
    return runner.decisions[index]
