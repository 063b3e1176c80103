"""The steps that all token pruning methods share: insert selectors, meet the budget, train."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.method import Job, Outcome
from edakari.core.output_kinds import Suits
from edakari.core.plan import KeepTokens, Plan
from edakari.core.protocols import Batch, Cost, Precision, Schedule
from edakari.core.settings import Count, LearningRate, NonNegative, Whole, settings
from edakari.core.stability import experimental
from edakari.errors import DataError, ModelError
from edakari.graph import example_for
from edakari.methods.tokens.counts import planned, token_limits
from edakari.methods.tokens.progressive import Progress, phases, profile, progressive
from edakari.methods.tokens.training import DualAscent, TokenLoss, TokenTrainer, calibrate, imitation
from edakari.surgery import apply
from edakari.surgery.tokens import (
    Adaptive,
    TokenLayout,
    TokenSites,
    attach,
    insert,
    selections,
    token_layout,
    token_sites,
)
from edakari.surgery.tokens.design import TokenDesign

__all__ = ["TokenTraining", "progressive_design", "prune_tokens_by", "sites_of"]


@settings
class TokenTraining:
    """Settings of the training of selectors and network.

    Args:
        imitation_epochs: number of epochs in which selectors learn to keep the most attended tokens, without labels.
        selector_epochs: number of epochs in which only the selectors are trained.
        joint_epochs: number of epochs in which selectors and network are trained together.
        selector_lr: peak learning rate while only the selectors are trained.
        joint_lr: peak learning rate while selectors and network are trained together.
        weight_decay: weight decay in both trainings.
        loss: weights of the terms of the loss.
        dual_rate: step size of the Lagrange multipliers of the ratios; 0 uses the penalty alone, as the authors do.
        joint_rule: selection of tokens in the joint training: "sample" samples them, as the authors do; "count" keeps
            as many as planned, as the exported network does.
        batches: largest number of calibration batches from which thresholds are set.
        precision: precision of the training: "auto", "fp32", "bf16" or "fp16".
    """

    suits: ClassVar[Suits] = Suits(("class", "classes"), "trains selectors by logits of classes")

    imitation_epochs: Whole = 0
    selector_epochs: Whole = 5
    joint_epochs: Whole = 25
    selector_lr: LearningRate = 5e-4
    # differs: the authors train the network at a hundredth of the selectors' rate; here both have the same rate
    joint_lr: LearningRate = 5e-5
    weight_decay: NonNegative = 0.05
    loss: TokenLoss = TokenLoss()
    dual_rate: NonNegative = 0.05
    # differs: the authors sample; while scores are near 0, samples differ from the tokens that inference keeps
    joint_rule: Literal["sample", "count"] = "count"
    batches: Count = 16
    precision: Precision = "fp32"

    @property
    def needs_training(self) -> bool:
        """Whether selectors are trained where there is data."""
        return max(self.imitation_epochs, self.selector_epochs, self.joint_epochs) > 0


def sites_of(job: Job) -> TokenSites:
    """Return the blocks of a job's network in front of which selectors can be inserted."""
    return token_sites(job.model, example_for(job.model, job.graph.inputs))


@experimental("token pruning", "its settings, the form of its plans and the networks that it saves")
def prune_tokens_by(
    name: str, job: Job, design: TokenDesign, keep_ratios: Sequence[float] = (), training: TokenTraining | None = None
) -> Outcome:
    """Prune the tokens of a job's network: choose counts within the budget, insert selectors, train, set thresholds.

    Args:
        name: name of the method, recorded in the plan.
        job: network, budget and data.
        design: selectors and their blocks.
        keep_ratios: fraction of patches behind each selector, set by the user; empty takes the largest within the
            budget.
        training: settings of the training; None if the selectors have no weights. Without data, selectors keep their
            initial weights.

    Raises:
        DataError: the selectors start with random weights, and there are no data to train them.
    """

    def solve(costs: Sequence[Cost]) -> Plan:
        return dc.replace(planned(job, design, costs, keep_ratios), method=name)

    learns = training is not None and has_data(job)
    if training is not None and not learns and design.settings.get("start") == "random":
        raise DataError(
            f"method {name!r}: selectors with random weights need training, but the task has no data; add data, or "
            "set start: unlike"
        )
    plan = job.meet_budget(solve)
    edits = {edit.block: edit.count for edit in plan.tokens()}
    job.log("tokens", {f"{block} keeps": float(count) for block, count in edits.items()})
    if not edits or training is None or not learns:
        return Outcome(plan, apply(job.model, plan, job.graph))
    model = trained(job, design.sites, plan, training)
    return Outcome(plan, model)


def has_data(job: Job) -> bool:
    """Whether the calibration split of a job's task has any batches."""
    return next(iter(job.task.batches("calibration")), None) is not None


def progressive_design(job: Job, design: TokenDesign, training: TokenTraining, steps: Progress) -> TokenDesign:
    """Return a design whose blocks and ratios come from the progressive schedule.

    Args:
        job: network, budget and data.
        design: selectors and their settings.
        training: settings of the training of the selectors.
        steps: settings of the schedule.

    Raises:
        ModelError: the network has several stages of tokens.
        DataError: the task has no data.
        InfeasibleBudget: no ratios within the allowed accuracy drop meet the budget.
    """
    sites = design.sites
    if sites.staged:
        raise ModelError(
            f"the progressive schedule needs a single stage of tokens, but this {type(job.model).__name__} has "
            f"{len(sites.firsts())}; use schedule: geometric"
        )
    if not has_data(job):
        raise DataError(
            "the progressive schedule trains after every step, but the task has no data; add data, or use "
            "schedule: geometric"
        )
    limits = token_limits(job, design)
    short = dc.replace(training, imitation_epochs=0, selector_epochs=0, joint_epochs=steps.epochs_per_step)

    def train(model: nn.Module, counts: Mapping[int, int]) -> nn.Module:
        indices = tuple(sorted(counts))
        edits = dc.replace(design, blocks=indices).edits(tuple(counts[index] for index in indices))
        plan = Plan(edits, job.graph.fingerprint, job.graph.inputs)
        return trained(dc.replace(job, model=model), sites, plan, short)

    counts = progressive(job, sites.names, sites.patches[0], limits, train, steps)
    ratios = [count / sites.patches[0] for count in counts]
    indices = phases(ratios, steps.phase_tolerance)
    if not indices:
        return dc.replace(design, blocks=(len(ratios) - 1,))
    return dc.replace(design, blocks=indices, schedule=profile([ratios[index] for index in indices]))


def trained(job: Job, sites: TokenSites, plan: Plan, training: TokenTraining) -> nn.Module:
    """Return a network with the selectors of a plan, trained with masks of its own decisions.

    Args:
        job: network and data.
        sites: blocks of the network.
        plan: plan whose edits say where selectors are inserted, and how many tokens each keeps.
        training: settings of the training.
    """
    example = example_for(job.model, job.graph.inputs)
    teacher = copied(job.model).eval().requires_grad_(False)
    model = attach(job.model, plan.tokens(), example, job.seed)
    dense_patches = dict(zip(sites.names, sites.patches, strict=True))
    targets = [edit.count / dense_patches[edit.block] for edit in plan.tokens()]
    dual = DualAscent(targets, training.dual_rate) if training.dual_rate > 0 else None
    trainer = TokenTrainer(job, Adaptive(model), teacher, sites.blocks[-1], targets, training.loss, dual)
    selectors = trainer.selector_parameters()
    schedule = Schedule(
        lr=training.selector_lr,
        optimizer="adamw",
        weight_decay=training.weight_decay,
        precision=training.precision,
    )
    hooks = [dual] if dual else []
    attended = not sites.staged and sites.names[0] not in {edit.block for edit in plan.tokens()}
    if training.imitation_epochs and attended:
        objective = imitation(trainer, attention_scores(trainer, plan, token_layout(teacher, example)))
        job.fit(trainer.student, objective, dc.replace(schedule, epochs=training.imitation_epochs), params=selectors)
    if training.selector_epochs:
        alone = dc.replace(schedule, epochs=training.selector_epochs)
        job.fit(trainer.student, trainer.objective, alone, hooks=hooks, params=selectors)
    if training.joint_epochs:
        joint = dc.replace(schedule, epochs=training.joint_epochs, lr=training.joint_lr)
        trainer.student.training_rule = training.joint_rule
        if training.joint_rule == "count":  # every image keeps the planned number, so no constraint is needed
            trainer.dual, hooks = None, []
        job.fit(trainer.student, trainer.objective, joint, hooks=hooks)
    batches = [batch for batch, _ in zip(job.task.batches("calibration"), range(training.batches), strict=False)]
    caps = calibrate(model, job.task.outputs, batches)
    job.log("thresholds", {block: float(each.get_buffer("threshold")) for block, each in selections(model).items()})
    job.log("fullest images", {block: float(cap) for block, cap in caps.items()})
    return model.eval()


def attention_scores(
    trainer: TokenTrainer, plan: Plan, layout: TokenLayout
) -> Callable[[Batch], Sequence[torch.Tensor]]:
    """Return a function that scores the patches of a batch by the attention of the dense network's class token.

    The score of a patch for a selector is the mean attention over the selector's block and all later ones.

    Args:
        trainer: trainer that holds the dense network.
        plan: plan whose edits say where selectors are inserted.
        layout: layout of the network's tokens.

    Returns:
        A function from a batch to the scores for each selector, float [B, N] each.
    """
    settings = (("package", "none"),)
    watched = [KeepTokens(name, layout.patches, "evit", settings) for name in layout.names[1:]]
    example = example_for(trainer.teacher, plan.inputs)
    observer = Adaptive(insert(copied(trainer.teacher), watched, example)).eval()
    indices = [layout.names.index(edit.block) - 1 for edit in plan.tokens()]

    @torch.no_grad()
    def scores(batch: Batch) -> Sequence[torch.Tensor]:
        observer.to(next(trainer.student.parameters()).device)
        trainer.job.task.outputs(observer, batch)
        seen = [torch.sigmoid(decision.score) for decision in observer.decisions]
        return [torch.stack(seen[index:]).mean(0) for index in indices]

    return scores
