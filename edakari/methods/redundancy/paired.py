"""Changes of a network's predictions by a cut, on the same images: accuracy and class distribution."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Task
from edakari.criteria.capture import watching
from edakari.criteria.dividing import own_batches
from edakari.criteria.labels import LabelSource, labels_of
from edakari.criteria.responses import called
from edakari.errors import DataError

__all__ = ["Answers", "Change", "answers_of", "change_between"]


@dc.dataclass(frozen=True)
class Answers:
    """Predictions of a network for the images of this process.

    Args:
        labels: labels of the data, or the network's own predictions; see `edakari.criteria.labels`.
        predicted: class of each image or pixel, int64; with several classes per image, 1 for each predicted class.
        probabilities: probability of each class, float32 [images, classes]; the mean over labelled pixels in
            segmentation, or over all pixels of an image without any.
    """

    labels: torch.Tensor
    predicted: torch.Tensor
    probabilities: torch.Tensor


@dc.dataclass(frozen=True)
class Change:
    """Change of the predictions from one network to another.

    Args:
        accuracy_drop: drop of the accuracy in percentage points; negative if the second network is better.
        dissimilarity: 1 minus the mean cosine similarity of the class distributions, from 0 to 1.
        disagreement: fraction of the images (pixels, entries) for which the two networks predict different classes.
    """

    accuracy_drop: float
    dissimilarity: float
    disagreement: float


def answers_of(
    model: nn.Module, batches: Iterable[Batch], task: Task, images: int, source: LabelSource = "data"
) -> Answers:
    """Return the predictions of a network in evaluation mode.

    Args:
        model: the network; its modes are restored.
        batches: batches, the same on all processes; each process evaluates its part.
        task: task that calls the network.
        images: largest number of images, rounded up to whole batches.
        source: source of the labels.

    Raises:
        DataError: there are no images, or no labels.
    """
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    with watching(model, (), lambda layer_output, x: None):
        for _, batch in own_batches(batches, images):
            outputs = called(model, batch, task)
            labels = labels_of(batch, outputs, source)
            parts.append((labels, *_predicted(outputs.float(), labels)))
    if not parts:  # there are fewer batches than processes
        none = torch.zeros(0, dtype=torch.int64)
        return Answers(none, none, torch.zeros(0, 1))
    return Answers(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def change_between(reference: Answers, trial: Answers) -> Change:
    """Compare the predictions of two networks for the same images, over all processes.

    Pixels without a label, such as those of class 255, do not count.

    Args:
        reference: predictions of the first network; its labels are the correct ones.
        trial: predictions of the second network.

    Raises:
        DataError: no pixel has a label.
    """
    known = _known(reference.labels, reference.probabilities.shape[1])
    before = (reference.predicted == reference.labels)[known].double()
    after = (trial.predicted == reference.labels)[known].double()
    cosine = functional.cosine_similarity(reference.probabilities.double(), trial.probabilities.double(), dim=1)
    sums = torch.tensor(
        [
            float((before - after).sum()),
            float((reference.predicted != trial.predicted)[known].sum()),
            float(before.numel()),
            float((1.0 - cosine).clamp(0.0, 1.0).sum()),
            float(len(cosine)),
        ],
        dtype=torch.float64,
    )
    drop, differing, entries, dissimilar, images = Processes.here().reduced(sums).tolist()
    if not entries:
        raise DataError("no pixel of the trial images has a label of a class; check the labels, or raise trial.images")
    return Change(100.0 * drop / entries, dissimilar / images, differing / entries)


def _known(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Whether each label names a class; only pixels may have none."""
    return (labels >= 0) & (labels < classes) if labels.ndim > 2 else torch.ones_like(labels, dtype=torch.bool)


def _predicted(outputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted classes, and probability of each class, from logits [N, classes, ...]."""
    if labels.ndim == 2:
        return (outputs > 0).long().cpu(), outputs.sigmoid().cpu()
    if outputs.shape[1] == 1:
        outputs = torch.cat([torch.zeros_like(outputs), outputs], 1)
    probabilities = outputs.softmax(1)
    if probabilities.ndim > 2:
        known_N1P = _known(labels, outputs.shape[1]).to(outputs.device).flatten(1)[:, None]
        known_N1P = known_N1P | ~known_N1P.any(2, keepdim=True)
        probabilities = (probabilities.flatten(2) * known_N1P).sum(2) / known_N1P.sum(2)
    return outputs.argmax(1).cpu(), probabilities.cpu()
