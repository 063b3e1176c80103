"""Training of a network with token selectors: its settings, and its phases one after the other."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.method import Job
from edakari.core.output_kinds import Suits
from edakari.core.plan import KeepTokens, Plan
from edakari.core.protocols import Batch, Precision, Schedule, Task
from edakari.core.settings import Count, LearningRate, NonNegative, Whole, settings
from edakari.errors import SettingsError
from edakari.graph import example_for
from edakari.methods.tokens.stored_teacher import require_indices, stored_teacher
from edakari.methods.tokens.training import DualAscent, TokenLoss, TokenTrainer, calibrate, imitation
from edakari.surgery.tokens import (
    Adaptive,
    TokenLayout,
    TokenSites,
    attach,
    detach,
    gates,
    insert,
    selections,
    token_layout,
)
from edakari.surgery.tokens.embeddings import embedding_names

__all__ = ["TokenTraining", "train_selectors"]


@settings
class TokenTraining:
    """Settings of the training of selectors and network.

    Args:
        imitation_epochs: number of epochs in which selectors learn to keep the most attended tokens, without labels;
            not after a progressive schedule, which has trained them.
        selector_epochs: number of epochs in which only the selectors are trained.
        joint_epochs: number of epochs in which selectors and network are trained together; class token and position
            embedding stay as they are.
        selector_lr: peak learning rate while only the selectors are trained.
        joint_lr: peak learning rate while selectors and network are trained together.
        weight_decay: weight decay in both trainings.
        loss: weights of the terms of the loss.
        dual_rate: step size of the Lagrange multipliers of the ratios; 0 uses the penalty alone, as the authors do.
        dual_damping: factor of half the squared deviation of each ratio, which is added to the multipliers' term; with
            less of it, ratios swing past their targets.
        joint_rule: selection of tokens in the joint training: "sample" samples them, as the authors do; "count" keeps
            as many as planned, as the exported network does.
        joint_strategy: what becomes of pruned tokens in the joint training: "mask" masks them, "topk" removes them as
            the exported network does, which has the same outputs, but selectors then learn from kept
            tokens and packages only; it needs joint_rule "count".
        teacher: "live" runs the dense network on every batch; "stored" runs it once on each training image, without
            augmentation, and keeps its outputs on the disk. Its tokens can be kept only if images are not augmented.
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
    # differs: the authors decay all parameters of selectors; here vectors have no decay in any part of a network
    weight_decay: NonNegative = 0.05
    loss: TokenLoss = TokenLoss()
    dual_rate: NonNegative = 0.05
    dual_damping: NonNegative = 40.0
    # differs: the authors sample; while scores are near 0, samples differ from the tokens that inference keeps
    joint_rule: Literal["sample", "count"] = "count"
    joint_strategy: Literal["mask", "topk"] = "mask"
    teacher: Literal["live", "stored"] = "live"
    batches: Count = 16
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.joint_strategy == "topk" and self.joint_rule != "count":
            raise SettingsError(
                f"joint_strategy: 'topk' removes the same number of tokens in every image, found joint_rule "
                f"{self.joint_rule!r}; set joint_rule: count, or joint_strategy: mask"
            )

    def check_task(self, model: nn.Module, task: Task, batch: Batch) -> None:
        """See `edakari.core.method.parts_of`."""
        if self.teacher == "stored":
            require_indices(task)

    @property
    def needs_training(self) -> bool:
        """Whether selectors are trained where there is data."""
        return max(self.imitation_epochs, self.selector_epochs, self.joint_epochs) > 0


def train_selectors(
    job: Job, sites: TokenSites, plan: Plan, training: TokenTraining, start: nn.Module | None = None
) -> nn.Module:
    """Return a network with the selectors of a plan, trained with masks of its own decisions.

    Args:
        job: network and data; the network is the teacher.
        sites: blocks of the network.
        plan: plan whose edits say where selectors are inserted, and how many tokens each keeps.
        training: settings of the training.
        start: network with selectors whose weights the training begins with; it does not change. Selectors before
            further blocks are initialised. None begins with the job's network.
    """
    example = example_for(job.model, job.graph.inputs)
    teacher = copied(job.model).eval().requires_grad_(False)
    model = _attached(job, plan, example, start)
    dense_patches = dict(zip(sites.names, sites.patches, strict=True))
    targets = [edit.count / dense_patches[edit.block] for edit in plan.tokens()]
    dual = DualAscent(targets, training.dual_rate, training.dual_damping) if training.dual_rate > 0 else None
    trainer = TokenTrainer(job, Adaptive(model), teacher, sites.blocks[-1], targets, training.loss, dual)
    if training.teacher == "stored" and max(training.selector_epochs, training.joint_epochs) > 0:
        trainer.stored = stored_teacher(job, teacher, sites.blocks[-1], training.loss.tokens > 0)
    schedule = Schedule(
        lr=training.selector_lr,
        optimizer="adamw",
        weight_decay=training.weight_decay,
        precision=training.precision,
    )
    attended = not sites.staged and sites.names[0] not in {edit.block for edit in plan.tokens()}
    if training.imitation_epochs and attended and start is None:
        objective = imitation(trainer, attention_scores(trainer, plan, token_layout(teacher, example)))
        selectors = trainer.selector_parameters()
        job.fit(trainer.student, objective, dc.replace(schedule, epochs=training.imitation_epochs), params=selectors)
    _fit_selectors(trainer, training, schedule)
    _fit_jointly(trainer, training, schedule, embedding_names(teacher, example, sites.names[0]))
    _set_thresholds(job, model, training.batches)
    return model.eval()


def _attached(job: Job, plan: Plan, example: Any, start: nn.Module | None) -> nn.Module:
    """Attach the plan's selectors to the job's network, or to a copy of `start` whose own selectors continue."""
    earlier = {block: each.state_dict() for block, each in selections(start).items()} if start is not None else {}
    model = attach(job.model if start is None else detach(copied(start)), plan.tokens(), example, job.seed)
    # differs: the authors' selectors begin at 0, and keep half of the tokens while decisions are sampled. To lower all
    # scores takes them hundreds of steps, in which they do not learn what to keep
    for gate in gates(model):
        gate.begin_at_target()
    for block, selection in selections(model).items():
        if block in earlier:
            selection.load_state_dict(earlier[block])
    return model


def _fit_selectors(trainer: TokenTrainer, training: TokenTraining, schedule: Schedule) -> None:
    if training.selector_epochs:
        alone = dc.replace(schedule, epochs=training.selector_epochs)
        hooks, selectors = [trainer.dual] if trainer.dual else [], trainer.selector_parameters()
        batches = _batches(trainer)
        trainer.job.fit(trainer.student, trainer.objective, alone, hooks=hooks, params=selectors, batches=batches)


def _fit_jointly(trainer: TokenTrainer, training: TokenTraining, schedule: Schedule, frozen: Collection[str]) -> None:
    """Train selectors and network together; class token and position embedding stay, as in the authors' code."""
    if not training.joint_epochs:
        return
    joint = dc.replace(schedule, epochs=training.joint_epochs, lr=training.joint_lr)
    trainer.student.training_rule = training.joint_rule
    trainer.student.training_strategy = training.joint_strategy
    if training.joint_rule == "count":  # every image keeps the planned number, so no constraint is needed
        trainer.dual = None
    hooks = [trainer.dual] if trainer.dual else []
    named = trainer.student.model.named_parameters()
    params = [parameter for name, parameter in named if parameter.requires_grad and name not in frozen]
    batches = _batches(trainer)
    trainer.job.fit(trainer.student, trainer.objective, joint, hooks=hooks, params=params, batches=batches)


def _batches(trainer: TokenTrainer) -> Iterable[Batch] | None:
    """The batches of the training: with indices if the teacher's outputs are stored, else the job's own (None)."""
    return None if trainer.stored is None else require_indices(trainer.job.task).with_indices()


def _set_thresholds(job: Job, model: nn.Module, count: int) -> None:
    """Set the thresholds of all selectors on `count` batches or fewer, and log them."""
    batches = [batch for batch, _ in zip(job.task.batches("calibration"), range(count), strict=False)]
    caps = calibrate(model, job.task.outputs, batches)
    job.log("thresholds", {block: float(each.get_buffer("threshold")) for block, each in selections(model).items()})
    job.log("fullest images", {block: float(cap) for block, cap in caps.items()})


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
