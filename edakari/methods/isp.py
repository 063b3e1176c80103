"""ISP: gates close the channels without which the network still looks at the same places of an image.

Ganjdanesh et al., ECCV 2022. The method in four steps: (1) a predictor learns to classify partly masked images as the
network classifies unmasked ones; (2) an explainer, the decoder of a U-Net over the frozen network, learns to predict in
three numbers (centre and width of a radial mask) where the network looks, and the predictor judges it; (3) gates on
channel groups are trained with frozen weights, by the class loss, the distance between the explanations with and
without gates, and a penalty on the cost; (4) one threshold over the logits of the gates is moved until the true cost
meets the budget, and the closed channels are cut.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

from edakari.core.budget import Limits
from edakari.core.graph import Graph
from edakari.core.method import Job, Outcome, register
from edakari.core.modes import eval_mode, judging
from edakari.core.output_kinds import Suits
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Allocator, Batch, Cost, Schedule, Task
from edakari.core.settings import Count, LearningRate, NonNegative, Positive, PositiveFraction, settings
from edakari.core.space import Group
from edakari.core.stability import experimental
from edakari.cost import bind
from edakari.errors import EdakariError, InfeasibleBudget, SettingsError
from edakari.graph.taps import find_taps
from edakari.methods.allocation import allocate
from edakari.methods.masking.gates import FreeLogits, GateMode, Gumbel, HyperLogits, LogitStart
from edakari.methods.masking.masks import maskable
from edakari.methods.saliency.explained import Saliency
from edakari.methods.saliency.explaining import (
    ExplainerSettings,
    LabelSource,
    PredictorSettings,
    checked,
    checked_batch,
    fit_explainer,
    fit_predictor,
    labelled,
    unchanged,
)
from edakari.methods.saliency.gating import Gated, GateReport, Pairs, against_gates, cost_penalty, inner_groups
from edakari.methods.saliency.saved import Gates, load_saliency, save_gates, save_saliency
from edakari.models.saliency import Family, Matching
from edakari.solve import ALLOCATORS, Threshold
from edakari.surgery import apply
from edakari.tasks.mixing import unmixed
from edakari.train import learning_rate

__all__ = ["InterpretationSteeredPruning"]

TRUSTED = 0.8
"""Agreement below which an explanation is not reliable."""
SLACK = 1.2
"""Factor by which logits should be able to move farther than needed."""


@register("isp")
@settings
class InterpretationSteeredPruning:
    """Learn which channels can be closed while the network predicts the same and looks at the same places, then cut.

    Args:
        predictor_epochs: number of epochs in which the predictor is trained, on the training data.
        predictor_lr: peak learning rate of the predictor.
        predictor_start: initial weights of the predictor: "pretrained" takes the network's own, "scratch" random ones.
        mask_widths: smallest and largest width of the predictor's random masks, as fractions of the image's side; None
            takes the authors', which are 5/32 to 11/32 for images of up to 64 pixels, and 80/224 to 100/224 beyond.
        mask_temperature: temperature of the pixels that are drawn from masks.
        samples: pixels that are drawn from masks: "relaxed" ones between 0 and 1, or "hard" ones that are rounded and
            have the gradient of the relaxed ones.
        explainer_epochs: number of epochs in which the explainer is trained, on the training data.
        explainer_lr: peak learning rate of the explainer.
        explainer_weight_decay: weight decay of predictor and explainer.
        area: weight of the masks' area in the explainer's loss; a larger weight shows less of the image. The authors
            have 0.2 for CIFAR and 1.0 for ImageNet.
        area_power: power of the pixels in the area; the authors have 0.3 for CIFAR and 0.5 for ImageNet.
        roughness: weight of the masks' roughness in the explainer's loss; the authors have 0.001 for CIFAR and 0.0001
            for ImageNet.
        selector: "rbf" makes radial masks of three numbers, "realx" masks that are free at every pixel.
        explain_share: fraction of the training data that an epoch of predictor and explainer uses.
        taps: modules whose feature maps are explained, finest first; empty takes the last one of each resolution.
        explainer: folder `kept` of an earlier run on the same weights, whose explainer is used; None trains one.
        labels: classes that are explained: "data" takes the images' labels, "predicted" the network's predictions.
        gate_epochs: number of epochs in which the gates are trained, on the calibration split.
        gate_lr: peak learning rate of the gates; its sum over all steps bounds how far a logit can move.
        gate_weight_decay: weight decay of the gates, towards open ones.
        gates: "free" trains one logit per channel, "hyper" a recurrent network that computes the logits.
        gate_start: initial values of the free logits: "zeros", or random ones ("normal").
        gate_offset: offset that is added to the logits, so that gates start open.
        gate_temperature: temperature of the gates' random draws.
        gate_mode: factor of the features: gates of 0 and 1 ("hard"), or in between ("soft").
        interpretation: weight of the distance between explanations in the loss of the gates.
        matching: numbers by which two explanations are compared: the explainer's outputs as fractions of the image
            ("normalised") or in pixels, as in the authors' code ("raw"), or centre and width of the masks as fractions
            of the image, as in the paper's figure ("shown").
        cost_weight: weight of the logarithm of the budget's overrun in the loss of the gates.
        streams: allow residual streams to be pruned; the paper does not prune them.
        allocator: allocator that turns logits into sizes within the budget; "threshold" moves one threshold over all
            logits.
    """

    paper: ClassVar[str] = (
        "Ganjdanesh et al., Interpretations Steered Network Pruning via Amortized Inferred Saliency Maps, ECCV 2022"
    )
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepChannels})
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    suits: ClassVar[Suits] = Suits(
        ("class", "classes"), "explains at which places of an image a network finds its classes"
    )

    # differs: the authors train a CIFAR predictor from scratch for 300 epochs; the network's own weights need fewer
    predictor_epochs: Count = 20
    # differs: the authors use Adam at a constant 1e-4 in both trainings; AdamW at 1e-3 and a cosine need fewer epochs
    predictor_lr: LearningRate = 1e-3
    predictor_start: Literal["pretrained", "scratch"] = "pretrained"
    mask_widths: tuple[Positive, Positive] | None = None
    mask_temperature: Positive = 0.1
    samples: Literal["relaxed", "hard"] = "relaxed"
    explainer_epochs: Count = 10
    explainer_lr: LearningRate = 1e-3
    explainer_weight_decay: NonNegative = 1e-4
    area: NonNegative = 0.2
    area_power: Positive = 0.3
    roughness: NonNegative = 1e-3
    selector: Family = "rbf"
    explain_share: PositiveFraction = 1.0
    taps: tuple[str, ...] = ()
    explainer: str | None = None
    labels: LabelSource = "data"
    gate_epochs: Count = 200
    # differs: the authors use a constant 1e-3 over 4000 steps; here the rate decays, so that the cost converges
    gate_lr: LearningRate = 0.02
    gate_weight_decay: NonNegative = 1e-3
    gates: Literal["free", "hyper"] = "free"
    gate_start: LogitStart = "normal"
    gate_offset: float = 3.0
    gate_temperature: Positive = 0.4
    gate_mode: GateMode = "hard"
    # differs: the authors use 10 and 1; they compare explanations in pixels, we in fractions of the image
    interpretation: NonNegative = 1.0
    matching: Matching = "normalised"
    cost_weight: NonNegative = 5.0
    streams: bool = False
    allocator: Annotated[Allocator, ALLOCATORS] = Threshold()

    def __post_init__(self) -> None:
        if self.mask_widths is not None and self.mask_widths[0] > self.mask_widths[1]:
            raise SettingsError(f"method 'isp': mask_widths must rise, found {self.mask_widths}")

    def check_task(self, model: nn.Module, task: Task, batch: Batch) -> None:
        """Explain and train by a batch; see `edakari.core.method.parts_of`."""
        checked_batch(task, model, batch, self.labels)
        images, labels = labelled(batch, self.labels)
        with judging(model):
            outputs = task.outputs(model, batch)
            task.loss(outputs, (images, outputs.argmax(1) if labels is None else labels))

    @experimental("the method isp", "its settings and the explainers that it saves")
    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        limits = bind(job.budget, job.graph, job.costs)
        if limits.excess({}) <= 0:
            return Outcome(Plan((), job.graph.fingerprint, job.graph.inputs, "isp"), job.model)
        groups = maskable(job.graph, job.groups if self.streams else inner_groups(job))

        def solve(scores: Mapping[str, torch.Tensor], costs: Sequence[Cost]) -> Plan:
            plan = allocate(job.graph, scores, job.budget, self.allocator, groups, costs)
            return dc.replace(plan, method="isp")

        try:  # an infeasible budget raises before anything is trained
            solve({group.name: torch.ones(group.size) for group in groups}, job.costs)
        except InfeasibleBudget as error:
            hint = " ISP leaves residual streams unpruned; set method.streams: true to gate them too."
            raise InfeasibleBudget(f"{error}{'' if self.streams else hint}", error.least) from None
        with eval_mode(job.model):
            logits = self._gates(job, groups, limits, self._saliency(job))
        parts = zip(groups, torch.split(logits, [group.size for group in groups]), strict=True)
        gates = Gates(
            {group.name: part for group, part in parts}, self.gate_offset, self.gate_temperature, str(job.budget)
        )
        if job.artifacts is not None:
            save_gates(gates, job.artifacts, job.model)
        # values must not be negative, but logits may be; the sigmoid keeps their order
        scores = gates.scores()
        plan = job.meet_budget(lambda costs: solve(scores, costs))
        job.log("gates and budget", against_gates(plan, groups, logits))
        return Outcome(plan, apply(job.model, plan, job.graph))

    def saliency(self, folder: Path, model: nn.Module, graph: Graph) -> Saliency:
        """See `edakari.methods.saliency.saved.SaliencyMethod`."""
        return load_saliency(folder, model, graph)

    def explained_labels(self) -> LabelSource:
        """See `edakari.methods.saliency.saved.SaliencyMethod`."""
        return self.labels

    def _saliency(self, job: Job) -> Saliency:
        """Train or load the explainer and the predictor of the job's network (stages 1 and 2)."""
        job = dc.replace(job, task=unmixed(job.task))  # one class is explained at a time
        shape = checked(job.task, job.model, self.labels)
        if self.explainer is not None:
            found = load_saliency(self.explainer, job.model, job.graph)
            if found.explainer.family != self.selector:
                raise EdakariError(
                    f"method 'isp': the explainer in {self.explainer} has selector {found.explainer.family!r}, not "
                    f"{self.selector!r}; choose another folder, or set method.selector"
                )
        else:
            taps = find_taps(job.model, job.graph, self.taps)
            predictor = fit_predictor(job, shape[0], self._predictor())
            found = fit_explainer(job, predictor, taps, shape, self._explainer())
        if found.agreement < TRUSTED:
            remark = "the explainer agrees with the network too rarely to guide the pruning"
            job.log(remark, {"agreement": found.agreement, "wanted": TRUSTED})
        if job.artifacts is not None:
            save_saliency(found, job.artifacts, job.model)
        return found

    def _predictor(self) -> PredictorSettings:
        return PredictorSettings(
            schedule=_adam(self.predictor_epochs, self.predictor_lr, self.explainer_weight_decay),
            start=self.predictor_start,
            family=self.selector,
            widths=self.mask_widths,
            temperature=self.mask_temperature,
            fraction=self.explain_share,
            hard=self.samples == "hard",
        )

    def _explainer(self) -> ExplainerSettings:
        return ExplainerSettings(
            schedule=_adam(self.explainer_epochs, self.explainer_lr, self.explainer_weight_decay),
            family=self.selector,
            area=self.area,
            power=self.area_power,
            roughness=self.roughness,
            temperature=1.0,
            labels=self.labels,
            fraction=self.explain_share,
            hard=self.samples == "hard",
        )

    def _gates(self, job: Job, groups: Sequence[Group], limits: Limits, saliency: Saliency) -> torch.Tensor:
        """Train gates with frozen weights (stage 3); returns their logits, float [channels] on the CPU."""
        logits: nn.Module
        if self.gates == "free":
            logits = FreeLogits(groups, self.gate_offset, self.gate_start, job.seed)
        else:
            logits = HyperLogits(groups, self.gate_offset, job.seed)
        model = Gated(
            job, groups, saliency, logits.to(next(job.model.parameters()).device), self.gate_temperature, self.gate_mode
        )
        pairs = Pairs.of(job, saliency, self.labels)
        schedule = _adam(self.gate_epochs, self.gate_lr, self.gate_weight_decay)
        self._warn_if_too_slow(job, schedule, len(pairs) * schedule.epochs)

        def objective(network: nn.Module, batch: tuple[torch.Tensor, ...]) -> Mapping[str, torch.Tensor]:
            images, labels, aim, weights, factor = batch
            outputs, raw, gates = network(images, labels)
            found, wanted = (saliency.explainer.compared(each, self.matching) for each in (raw, aim))
            distance = ((found - wanted).square().flatten(1).mean(1) * weights.to(found)).sum()
            sizes = torch.stack([part.sum() for part in torch.split(gates, [group.size for group in groups])])
            return {
                **{name: factor * term for name, term in job.task.loss(outputs, (images, labels)).items()},
                "interpretation": self.interpretation * distance,
                "cost": self.cost_weight * cost_penalty(limits, groups, sizes),
            }

        hooks = [Gumbel(model.masks.size, job.seed, model.take), GateReport(job, model, limits, self.gate_epochs)]
        with unchanged("training the gates", job.model, saliency.explainer), model.masks.installed():
            job.fit(model, objective, schedule, hooks=hooks, params=list(logits.parameters()), batches=pairs)
        trained: torch.Tensor = model.logits().detach().cpu()
        return trained

    def _warn_if_too_slow(self, job: Job, schedule: Schedule, steps: int) -> None:
        travel = sum(learning_rate(schedule, step, steps) for step in range(steps))
        needed = SLACK * (self.gate_offset + 0.37)
        if self.gates == "free" and travel < needed:
            job.log("gates cannot close: raise gate_lr or gate_epochs", {"travel": travel, "needed": needed})


def _adam(epochs: int, lr: float, weight_decay: float) -> Schedule:
    return Schedule(epochs=epochs, lr=lr, optimizer="adamw", weight_decay=weight_decay, warmup=0.0)
