"""What a cut changes on the very same images: how many answers are right, and how classes are weighed."""

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
from edakari.criteria.labels import LabelSource, labels_of
from edakari.criteria.responses import called, until
from edakari.errors import DataError

__all__ = ["Answers", "Change", "answers_of", "change_between"]


@dc.dataclass(frozen=True)
class Answers:
    """What a network says to this process's images.

    Args:
        labels: what they show, or what the network itself says; see `edakari.criteria.labels`.
        chosen: class of each image or pixel, or of each class whether it is there.
        shares: of each class, float32 [images, classes]; the mean over pixels where each has its own.
    """

    labels: torch.Tensor
    chosen: torch.Tensor
    shares: torch.Tensor


@dc.dataclass(frozen=True)
class Change:
    """From one network to another.

    Args:
        accuracy_drop: percentage points, below 0 where the second one is better.
        dissimilarity: 1 minus the mean cosine of the distributions over classes, from 0 to 1.
        disagreement: share of the images (pixels, entries) to which they do not say the same.
    """

    accuracy_drop: float
    dissimilarity: float
    disagreement: float


def answers_of(
    model: nn.Module, batches: Iterable[Batch], task: Task, images: int, source: LabelSource = "data"
) -> Answers:
    """Ask a network, in evaluation mode.

    Args:
        model: the network; it is left as found.
        batches: the same on all processes; each looks at its share.
        task: how the network is called.
        images: that are looked at, at most (whole batches).
        source: where labels come from.

    Raises:
        DataError: there are no images for this process, or no labels.
    """
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    here = Processes.here()
    with watching(model, (), lambda layer_output, x: None):
        for turn, batch in enumerate(until(batches, images)):
            if turn % here.world == here.rank:
                outputs = called(model, batch, task)
                labels = labels_of(batch, outputs, source)
                found.append((labels, *_answered(outputs.float(), labels.ndim == 2)))
    if not found:
        raise DataError("there are fewer batches of trial images than processes; lower data.batch_size")
    return Answers(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def change_between(reference: Answers, trial: Answers) -> Change:
    """What changed, over all processes; both answer to the same images, and the first's labels say what is right."""
    before = (reference.chosen == reference.labels).double()
    after = (trial.chosen == reference.labels).double()
    cosine = functional.cosine_similarity(reference.shares.double(), trial.shares.double(), dim=1)
    sums = torch.tensor(
        [
            float((before - after).sum()),
            float((reference.chosen != trial.chosen).sum()),
            float(before.numel()),
            float((1.0 - cosine).clamp(0.0, 1.0).sum()),
            float(len(cosine)),
        ],
        dtype=torch.float64,
    )
    drop, differing, entries, dissimilar, images = Processes.here().reduced(sums).tolist()
    return Change(100.0 * drop / entries, dissimilar / images, differing / entries)


def _answered(outputs: Any, several: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes chosen, and the share of each, of logits [N, classes, ...]."""
    if several:
        return (outputs > 0).long().cpu(), outputs.sigmoid().cpu()
    if outputs.shape[1] == 1:
        outputs = torch.cat([torch.zeros_like(outputs), outputs], 1)
    shares = outputs.softmax(1)
    return outputs.argmax(1).cpu(), (shares.flatten(2).mean(2) if shares.ndim > 2 else shares).cpu()
