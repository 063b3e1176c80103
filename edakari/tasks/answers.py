"""Compares what two networks answer on the validation data of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.answers import AnswersResult, ChangedImage, ClassAnswers, Confusion, Outcomes
from edakari.core.optional import needs
from edakari.core.processes import Processes
from edakari.core.protocols import Batch
from edakari.tasks.objects import found_in_original
from edakari.tasks.splits import device_of, evaluating

if TYPE_CHECKING:
    from edakari.tasks.classify import Classification
    from edakari.tasks.detection import Detection
    from edakari.tasks.segment import Segmentation

__all__ = ["compared_classes", "compared_maps", "compared_objects"]

MOST_CLASSIFIED, MOST_ANNOTATED = 5000, 500
"""Largest number of compared images of a classification task, which are spread evenly, and of other tasks."""
CLASSES, PAIRS, CHANGED = 100, 40, 12
"""Largest numbers of classes, of pairs of classes, and of changed images."""
FEW_CLASSES = 20
"""Number of classes up to which all pairs are given."""
Counts = npt.NDArray[np.int64]


def compared_classes(task: Classification, dense: nn.Module, pruned: nn.Module) -> AnswersResult:
    """Compare the classes that two networks answer.

    Args:
        task: task with the validation images.
        dense: the unpruned network.
        pruned: the pruned network.
    """
    here, count = Processes.here(), len(task.labels("val"))
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_CLASSIFIED)).round().astype(np.int64))
    parts = np.array_split(chosen, -(-len(chosen) // task.data.settings.batch_size))
    own = [parts[index] for index in here.share(len(parts))]
    found = [np.empty((0, 3), np.int64)]
    with evaluating(dense), evaluating(pruned):
        for part, batch in zip(own, task.batches_at("val", own), strict=True):
            answers = [task.outputs(model, batch).argmax(1).cpu().numpy() for model in (dense, pruned)]
            found.append(np.stack([part, *answers], 1))
    rows = np.concatenate(here.gathered_objects(np.concatenate(found)))
    labels, before, after = task.labels("val")[rows[:, 0]], rows[:, 1], rows[:, 2]
    names, right = task.classes, (before == labels, after == labels)
    matrices = [np.zeros((len(names), len(names)), np.int64) for _ in right]
    for matrix, said in zip(matrices, (before, after), strict=True):
        np.add.at(matrix, (labels, said), 1)
    totals = np.bincount(labels, minlength=len(names))
    shares = [matrix.diagonal() / np.maximum(totals, 1) for matrix in matrices]
    changed = np.flatnonzero(before != after)
    # those that only one network classifies correctly tell most
    order = np.argsort(right[0][changed] == right[1][changed], kind="stable")
    return AnswersResult(
        images=len(rows),
        figure="accuracy",
        classes=_differing(names, totals, *shares),
        class_count=len(names),
        outcomes=Outcomes(
            both=int((right[0] & right[1]).sum()),
            only_dense=int((right[0] & ~right[1]).sum()),
            only_pruned=int((~right[0] & right[1]).sum()),
            neither=int((~right[0] & ~right[1]).sum()),
        ),
        confusions=tuple(_confusions(names, *matrices)),
        changed=tuple(
            ChangedImage(
                index=int(rows[row, 0]), label=names[labels[row]], dense=names[before[row]], pruned=names[after[row]]
            )
            for row in changed[order][:CHANGED]
        ),
    )


def compared_maps(task: Segmentation, dense: nn.Module, pruned: nn.Module) -> AnswersResult:
    """Compare the intersection over union of each class of two networks; see `compared_classes`."""
    with needs("train", "evaluating a network"):
        from torchmetrics.classification import MulticlassConfusionMatrix

    names, device = task.classes, device_of(dense)
    counts = [
        MulticlassConfusionMatrix(len(names), ignore_index=task.options.ignore_index).to(device) for _ in range(2)
    ]
    images = 0
    with evaluating(dense), evaluating(pruned):
        for batch in _some(task.batches("val")):
            images += len(batch[0])
            for confusion, model in zip(counts, (dense, pruned), strict=True):
                confusion.update(task.outputs(model, batch).argmax(1), batch[1].to(device))
    figures, totals = [], np.zeros(len(names), np.int64)
    for confusion in counts:
        matrix = confusion.compute().cpu().numpy().astype(np.int64)
        totals, union = matrix.sum(1), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        figures.append(matrix.diagonal() / np.maximum(union, 1))
    return AnswersResult(
        images=_everywhere(images),
        figure="iou",
        classes=_differing(names, totals, *figures),
        class_count=len(names),
    )


def compared_objects(task: Detection, dense: nn.Module, pruned: nn.Module) -> AnswersResult:
    """Compare the average precision of each class, and precision by recall, of two networks; see `compared_classes`."""
    with needs("detection", "evaluating a detector"):
        from torchmetrics.detection import MeanAveragePrecision

        metrics = [
            MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True, extended_summary=True)
            for _ in range(2)
        ]
    images, totals = 0, torch.zeros(len(task.classes), dtype=torch.int64)
    with evaluating(dense), evaluating(pruned):
        for batch in _some(task.batches("val")):
            truth = [found_in_original(target, target) for target in batch[1]]
            images += len(truth)
            for each in truth:
                totals += torch.bincount(each["labels"].long(), minlength=len(task.classes))
            for metric, model in zip(metrics, (dense, pruned), strict=True):
                metric.warn_on_many_detections = False
                outputs = zip(task.outputs(model, batch), batch[1], strict=True)
                metric.update([found_in_original(found, target) for found, target in outputs], truth)
    found = [_precisions(metric.compute(), len(task.classes)) for metric in metrics]
    return AnswersResult(
        images=_everywhere(images),
        figure="ap",
        classes=_differing(task.classes, Processes.here().reduced(totals).numpy(), *(each for each, _ in found)),
        class_count=len(task.classes),
        dense_precision=found[0][1],
        pruned_precision=found[1][1],
    )


def _precisions(figures: dict[str, Any], count: int) -> tuple[npt.NDArray[np.float64], tuple[float, ...]]:
    """Average precision of each class, and the mean precision of the classes at IoU 0.5 by recall."""
    each = np.zeros(count)
    classes = figures["classes"].reshape(-1).long().numpy()
    each[classes] = figures["map_per_class"].reshape(-1).clamp(min=0).numpy()
    curves = figures["precision"][0, :, :, 0, -1].numpy()  # IoU 0.5, all areas, most objects: [recalls, classes]
    there = curves[:, (curves >= 0).all(0)]
    return each, tuple(round(float(value), 4) for value in there.mean(1)) if there.size else ()


def _some(batches: Any) -> Iterator[Batch]:
    """The first batches, up to the largest number of images over all processes."""
    left = -(-MOST_ANNOTATED // Processes.here().world)
    for batch in batches:
        yield batch
        left -= len(batch[0])
        if left <= 0:
            return


def _everywhere(count: int) -> int:
    return int(Processes.here().reduced(torch.tensor(count)))


def _differing(names: Sequence[str], totals: Any, dense: Any, pruned: Any) -> tuple[ClassAnswers, ...]:
    """The classes with data whose figures differ most, the largest loss first."""
    there = [index for index in range(len(names)) if totals[index]]
    most = sorted(there, key=lambda index: -abs(pruned[index] - dense[index]))[:CLASSES]
    return tuple(
        ClassAnswers(
            name=names[index], count=int(totals[index]), dense=float(dense[index]), pruned=float(pruned[index])
        )
        for index in sorted(most, key=lambda index: pruned[index] - dense[index])
    )


def _confusions(names: Sequence[str], dense: Counts, pruned: Counts) -> Iterator[Confusion]:
    """All pairs of few classes, else the pairs of different classes whose counts differ most."""
    pairs = [(label, answer) for label in range(len(names)) for answer in range(len(names))]
    if len(names) > FEW_CLASSES:
        changes = np.abs(pruned - dense)
        np.fill_diagonal(changes, 0)
        best = np.argsort(-changes, axis=None, kind="stable")[:PAIRS]
        pairs = [divmod(int(place), len(names)) for place in best if changes.flat[place]]
    for pair in pairs:
        yield Confusion(label=names[pair[0]], answer=names[pair[1]], dense=int(dense[pair]), pruned=int(pruned[pair]))
