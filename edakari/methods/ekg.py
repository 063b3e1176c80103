"""EKG: a greedy search whose reward is the distance to the labels and to the ensemble of earlier sub-networks.

Lee and Song, ECCV 2022. The method in five steps: (1) train the network for one epoch on a few images; (2) take its
outputs on other training images as the first knowledge; (3) at each step, score the channels by the first-order change
of the label loss plus the distance to the knowledge, let every group propose its next cut, and accept the cut that
increases the sum least; (4) add the outputs of the new sub-network to the knowledge, which is their running mean;
(5) cut the network once it is within the budget. Some sub-networks may teach it afterwards, through a memory bank of
their outputs.

The search leaves the weights unchanged: candidates are masks.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from edakari.core.copying import copied
from edakari.core.method import Job, Outcome, register
from edakari.core.output_kinds import Suits
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Batch, Cost, IndexedTask, Schedule, Split, Task, is_indexed
from edakari.core.settings import Count, LearningRate, PositiveFraction, Whole, settings
from edakari.cost import bind
from edakari.errors import DataError
from edakari.methods.knowledge.ensemble import EnsembleSearch, SearchSettings, SearchStep
from edakari.methods.masking.consumers import Layer, layers_of
from edakari.methods.masking.masks import Masks, maskable
from edakari.solve.spend import reachable
from edakari.surgery import apply
from edakari.train import has_norms, recalibrate_, task_objective

__all__ = ["EnsembleKnowledgePruning", "balanced_parts", "chosen_teachers"]

Indices = npt.NDArray[np.int64]
OVERFIT_LOSS = 0.01
"""A smaller loss on the search images means that the network has overfitted them."""
WARMUP_DECAY = 2.5e-4
"""Weight decay before the search: half of the authors' 5e-4, since their learning rate is half of ours."""
WITHOUT_NORMS = (
    "batch statistics (statistics), their recalibration after the cut, and the norm of weights in front of them "
    "(lengths) do not apply; the last weights keep their norm"
)


@register("ekg")
@settings
class EnsembleKnowledgePruning:
    """Search greedily for the sub-network closest to the labels and to the ensemble of earlier sub-networks.

    A budget of MACs does not count batch norms, as everywhere in edakari. The authors count them: 0.9 % of the MACs of
    ResNet-56 on 32x32 images, and 0.5 % of those of ResNet-50.

    Args:
        cut: fraction of a group that one step removes; it is divided by the number of layers that produce the group.
        knowledge: teacher of the search: "ensemble" is the mean output of the networks so far, "single" the output of
            the first one, "none" uses labels only.
        candidates: "otsu" considers the groups whose next channels matter least, "all" considers every group.
        warmup_images: number of training images of each class for one epoch of training before the search.
        warmup_lr: learning rate of that epoch, for the mean loss of a batch; the authors' 0.001 is for twice the mean.
        search_images: number of other training images of each class on which networks are compared.
        search_batch: largest number of search images in one batch.
        search_data: search images: "training" images unchanged, "augmented" ones, or the "held_out" ones of
            `data.hold_out`.
        statistics: statistics of batch norms during the search: those of each "batch", or the "running" ones.
        lengths: which weights keep their norm when parts of them are removed: those in front of batch "norms" and the
            last ones, "all", or "none".
        teachers: "poster" spreads the teachers between the first and the last network, "interim" over those in between.
        reuse_mb: memory for outputs of layers that are the same in all candidates, in MB.
    """

    paper: ClassVar[str] = (
        "Lee and Song, Ensemble Knowledge Guided Sub-network Search and Fine-tuning for Filter Pruning, ECCV 2022"
    )
    emits: ClassVar[frozenset[type[Any]]] = frozenset({KeepChannels})
    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = True
    suits: ClassVar[Suits] = Suits(("class",), "searches with equal numbers of images of each class")

    cut: PositiveFraction = 0.2
    knowledge: Literal["ensemble", "single", "none"] = "ensemble"
    candidates: Literal["otsu", "all"] = "otsu"
    warmup_images: Count = 256
    warmup_lr: LearningRate = 0.002
    search_images: Count = 32
    search_batch: Count = 256
    search_data: Literal["training", "augmented", "held_out"] = "training"
    statistics: Literal["batch", "running"] = "batch"
    lengths: Literal["norms", "all", "none"] = "norms"
    teachers: Literal["poster", "interim"] = "poster"
    reuse_mb: Whole = 1024

    def check_task(self, model: nn.Module, task: Task, batch: Batch) -> None:
        """Draw the images of the warm-up and of the search; see `edakari.core.method.parts_of`."""
        self._data(_indexed(task), 0)

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        # differs: MACs leave batch norms out, as in all methods; a budget in percent hardly depends on it
        groups, limits = maskable(job.graph, job.groups), bind(job.budget, job.graph, job.costs)
        no_values = {group.name: np.zeros(group.size + 1) for group in groups}
        if limits.excess({}) <= 0 or reachable(groups, no_values, limits) is not None:
            return Outcome(Plan((), job.graph.fingerprint, job.graph.inputs, "ekg"), job.model)
        task = _indexed(job.task)
        split: Split = "calibration" if self.search_data == "held_out" else "train"
        warmup, searched = self._data(task, job.seed)
        warmup_batches = task.batches_at("train", warmup)
        job.fit(job.model, task_objective(task), self.warmup_schedule, batches=warmup_batches)

        def masks_on(model: nn.Module) -> Masks:
            return Masks(model, job.graph, groups, "hard", lengthened=self._lengthened(job))

        batches = list(task.batches_at(split, searched, augmented=self.search_data == "augmented"))
        search = EnsembleSearch(job, masks_on(job.model), self._settings(), batches)
        self._log_limitations(job, search)
        paths: dict[str, tuple[SearchStep, ...]] = {}

        def solve(costs: Sequence[Cost]) -> Plan:
            path = search.run(bind(job.budget, job.graph, costs))
            plan = search.plan(path[-1])
            paths[plan.digest()] = path
            return plan

        def network(search_step: SearchStep) -> nn.Module:
            model = copied(job.model)
            masks = masks_on(model)
            masks.set(search_step.mask)
            masks.fold()
            return apply(model, search.plan(search_step), job.graph)

        plan = job.meet_budget(solve)
        path = paths[plan.digest()]

        def teachers(count: int) -> list[nn.Module]:
            losses = [search_step.loss for search_step in path]
            return [network(path[index]) for index in chosen_teachers(losses, count, self.teachers)]

        model = network(path[-1])
        recalibrate_(model, task.outputs, warmup_batches)
        return Outcome(dc.replace(plan, method="ekg"), model, teachers=teachers)

    @property
    def warmup_schedule(self) -> Schedule:
        """Schedule of the training before the search.

        The authors divide the sum over 256 images by 128, with learning rate 0.001 and weight decay 0.0005. These steps
        are the same, without a gradient that depends on the batch size.
        """
        # differs: weight decay acts on weights of two or more dimensions, not on norms and biases
        return Schedule(epochs=1, lr=self.warmup_lr, weight_decay=WARMUP_DECAY, warmup=0.0, final_lr=1.0)

    def _settings(self) -> SearchSettings:
        return SearchSettings(
            cut=self.cut,
            knowledge=self.knowledge,
            filtered=self.candidates == "otsu",
            batch_statistics=self.statistics == "batch",
            reuse_bytes=self.reuse_mb << 20,
        )

    def _data(self, task: IndexedTask, seed: int) -> tuple[list[Indices], list[Indices]]:
        """Return the indices of the images of the warm-up and of the search, in batches."""
        first, last, batch = self.warmup_images, self.search_images, self.search_batch
        if self.search_data != "held_out":
            return balanced_parts(task.labels("train"), first, last, batch, seed)
        if not task.held_out:
            raise DataError("method 'ekg': search_data=held_out needs held-out images; set data.hold_out: true")
        missing = np.setdiff1d(task.labels("train"), task.labels("calibration"))
        if len(missing):
            raise DataError(
                f"method 'ekg': {len(missing)} classes, such as {missing[0]}, have no image in the search set; raise "
                "data.calibration_size to at least search_images times the number of classes"
            )
        warmup, _ = balanced_parts(task.labels("train"), first, 0, batch, seed)
        _, searched = balanced_parts(task.labels("calibration"), 0, last, batch, seed)
        return warmup, searched

    def _lengthened(self, job: Job) -> dict[str, str]:
        def wanted(layer: Layer) -> bool:
            return self.lengths == "all" or (self.lengths == "norms" and (layer.normed or layer.last))

        return {layer.weight: layer.caller for layer in layers_of(job.graph) if wanted(layer)}

    def _log_limitations(self, job: Job, search: EnsembleSearch) -> None:
        unmasked = [group.name for group in job.groups if group.name not in search.masks.offsets]
        if unmasked:
            job.log(f"{len(unmasked)} groups stay unpruned, as no mask can replace a cut, such as {unmasked[0]}", {})
        if not has_norms(job.model):
            job.log(f"no batch normalisation: {WITHOUT_NORMS}", {})
        if search.start.loss < OVERFIT_LOSS and self.search_data == "training":
            remark = "the network has overfitted the search images; use augmented or held-out ones (search_data)"
            job.log(remark, {"loss": search.start.loss})


def _indexed(task: Task) -> IndexedTask:
    if not is_indexed(task):
        raise DataError(
            "method 'ekg' needs a classification task with indexed examples (labels, batches_at, with_indices), "
            f"but got a {type(task).__name__}"
        )
    return task


def balanced_parts(
    labels: Indices, first: int, last: int, batch: int, seed: int
) -> tuple[list[Indices], list[Indices]]:
    """Draw two disjoint sets of example indices with equal numbers of each class, shuffled and in batches.

    The batches of a set differ in length by at most one, so that their statistics are about equally noisy.

    Args:
        labels: class of each example, int64 [examples].
        first: number of examples of each class in the first set, from the start of the class.
        last: number of examples of each class in the second set, from the end of the class.
        batch: largest number of examples in a batch.
        seed: seed of the shuffling.

    Returns:
        The batches of indices of each set, int64 [batch].

    Raises:
        DataError: a class has too few examples.
    """
    indices = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    fewest = min(indices, key=len)
    if len(fewest) < first + last:
        raise DataError(
            f"method 'ekg': class {labels[fewest[0]]} has {len(fewest)} images, but warmup_images={first} and "
            f"search_images={last} of each class are needed; lower them or give more images"
        )
    rng = np.random.default_rng(seed)

    def batches(chosen: list[Indices]) -> list[Indices]:
        mixed: Indices = rng.permutation(np.concatenate(chosen))
        return list(np.array_split(mixed, max(1, -(-len(mixed) // batch))))

    return batches([own[:first] for own in indices]), batches([own[len(own) - last :] for own in indices])


def chosen_teachers(losses: Sequence[float], count: int, rule: Literal["poster", "interim"] = "poster") -> list[int]:
    """Choose teachers whose losses are evenly spaced among the networks of a search.

    Args:
        losses: losses of the first network, of the intermediate ones, and of the final one.
        count: largest number of teachers; each is chosen once, and the final network never.
        rule: "poster" takes, for k = 1 to K, the network whose loss is nearest to (K - k)/K of the final loss plus k/K
            of the first; "interim" takes the networks nearest to K evenly spaced losses, from the least one upwards.

    Returns:
        Their indices, the one of least loss first.
    """
    free = list(range(len(losses) - 1))
    count = min(count, len(free))
    if rule == "poster":
        aims = [((count - k) * losses[-1] + k * losses[0]) / count for k in range(1, count + 1)]
    else:
        low, high = min(losses[:-1]), max(losses[:-1])
        aims = [low + k * (high - low) / count for k in range(count)]
    chosen = []
    for aim in aims:
        nearest = min(free, key=lambda index: (abs(losses[index] - aim), index))
        free.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen, key=lambda index: (losses[index], index))
