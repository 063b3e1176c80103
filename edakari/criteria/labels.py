"""What images show, in the forms that tasks have it: a class, several classes, or a class at every pixel."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist

from edakari.core.processes import Processes
from edakari.core.protocols import Batch
from edakari.errors import DataError

__all__ = ["LabelSource", "Labels", "at_positions", "classes_of", "labels_of"]

LabelSource = Literal["data", "predicted"]
"""Labels as the data has them, or the classes that the network itself gives."""


class Labels:
    """What all scoring images show, gathered while they stream by; run state.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.found: list[tuple[int, torch.Tensor]] = []

    def add(self, labels: torch.Tensor, first: int) -> None:
        """Labels of images from number `first` on: int64 [N], or of several classes [N, classes]."""
        self.found.append((first, labels.cpu()))

    def table(self, images: int) -> torch.Tensor:
        """The labels of all images on all processes: int64 [images], or float32 [images, classes] that add up to 1.

        Raises:
            DataError: all images show the same.
        """
        several = bool(self.found) and self.found[0][1].ndim == 2
        table = torch.zeros((images, self.classes)) if several else torch.full((images,), -1)
        for first, labels in self.found:
            table[first : first + len(labels)] = labels.float() if several else labels
        table = Processes.here().reduced(table, dist.ReduceOp.MAX)
        if several:
            table = table / table.sum(1, keepdim=True).clamp(min=1)
        # labels of places are not among these
        if self.found and bool((table == table[:1]).all()):
            raise DataError(
                "all scoring images have the same label, so that filters cannot be told apart by classes; take images "
                "of several classes (is data.calibration_size large enough, is the data sorted?)"
            )
        return table


def labels_of(batch: Batch, outputs: Any, source: LabelSource) -> torch.Tensor:
    """The labels of a batch: int64 [N], several classes [N, classes], or int64 [N, height, width].

    Args:
        batch: (images, labels); what else it holds does not matter.
        outputs: of the network, float [N, classes, ...]; looked at where the labels are its predictions.
        source: where labels come from.

    Raises:
        DataError: there are no labels, or they do not fit the classes that the network gives.
    """
    classes = classes_of(outputs)
    if source == "predicted":
        binary = outputs.shape[1] == 1
        found: torch.Tensor = (outputs[:, 0] > 0) if binary else outputs.detach().argmax(1)
        return found.long().cpu()
    labels = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    if not isinstance(labels, torch.Tensor) or labels.ndim not in (1, 2, 3):
        raise DataError(
            "the scoring images have no labels (a batch is a pair of images and labels [N], [N, classes] or "
            "[N, height, width]). To take the network's own predictions, ask for them: labels='predicted'"
        )
    labels = labels.detach().cpu()
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise DataError(f"the data has {labels.shape[1]} classes for each image, but the network gives {classes}")
        return labels
    if labels.ndim == 1 and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"the data has labels from {int(labels.min())} to {int(labels.max())}, but the network gives {classes} "
            "classes; build it with as many as the data has"
        )
    return labels.long()


def classes_of(outputs: Any) -> int:
    """How many classes a network tells apart; two where it gives one number.

    Raises:
        DataError: its outputs are not one number for each class.
    """
    if not isinstance(outputs, torch.Tensor) or outputs.ndim < 2:
        found = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise DataError(f"filters are judged by classes, but the network gives {found} instead of [N, classes, ...]")
    return max(2, outputs.shape[1])


def at_positions(labels_NYX: torch.Tensor, positions_NF: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The labels at positions of a coarser map.

    Args:
        labels_NYX: int64 [N, height, width].
        positions_NF: row times width plus column in the map, int64 [N, filters].
        size: height and width of the map.

    Returns:
        int64 [N, filters].
    """
    height, width = labels_NYX.shape[1:]
    rows = ((positions_NF // size[1] + 0.5) * height / size[0]).long()
    columns = ((positions_NF % size[1] + 0.5) * width / size[1]).long()
    return labels_NYX.flatten(1).gather(1, (rows * width + columns).cpu())
