"""Labels of images in the forms that tasks use: one class, several classes, or one class per pixel."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist

from edakari.core.processes import Processes
from edakari.core.protocols import Batch
from edakari.errors import DataError

__all__ = ["LabelSource", "Labels", "at_positions", "classes_of", "labels_of"]

LabelSource = Literal["data", "predicted"]
"""Where labels come from: the data, or the classes that the network predicts."""


class Labels:
    """Labels of all scoring images, collected batch by batch; mutable state of a run.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.found: list[tuple[int, torch.Tensor]] = []

    @classmethod
    def agreed(cls, own: Labels | None) -> tuple[Labels, bool]:
        """Return labels on a process that may have seen no image, and whether those of any process are multi-label.

        Args:
            own: labels of this process; None if it has seen no image.
        """
        seen = Processes.here().gathered_objects(None if own is None else (own.classes, own._several))
        classes, _ = next(each for each in seen if each is not None)
        return own or cls(classes), any(each[1] for each in seen if each is not None)

    @property
    def _several(self) -> bool:
        return bool(self.found) and self.found[0][1].ndim == 2

    def add(self, labels: torch.Tensor, first: int) -> None:
        """Add labels of the images with indices `first`, `first + 1`, ...: int64 [N], or multi-label [N, classes]."""
        self.found.append((first, labels.cpu()))

    def table(self, images: int) -> torch.Tensor:
        """Labels of all images on all processes: int64 [images], or float32 [images, classes] with row sum 1.

        Raises:
            DataError: all images have the same label.
        """
        _, several = self.agreed(self)
        table = torch.zeros((images, self.classes)) if several else torch.full((images,), -1)
        for first, labels in self.found:
            table[first : first + len(labels)] = labels.float() if several else labels
        table = Processes.here().reduced(table, dist.ReduceOp.MAX)
        if several:
            table = table / table.sum(1, keepdim=True).clamp(min=1)
        # labels per pixel are not among these
        if bool((table != (0 if several else -1)).any()) and bool((table == table[:1]).all()):
            raise DataError(
                "all scoring images have the same label, so classes cannot distinguish the filters; take images "
                "of several classes (is data.calibration_size large enough, is the data sorted?)"
            )
        return table


def labels_of(batch: Batch, outputs: Any, source: LabelSource) -> torch.Tensor:
    """Return the labels of a batch: int64 [N], multi-label [N, classes], or int64 [N, height, width].

    Args:
        batch: (images, labels); further entries are ignored.
        outputs: outputs of the network, float [N, classes, ...]; used if the labels are its predictions.
        source: source of the labels.

    Raises:
        DataError: there are no labels, or they do not fit the network's classes.
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
    if not _are_labels(labels):
        raise DataError(
            f"classes can be counted of integers [N] or [N, height, width], or of 0 and 1 [N, classes], but the second "
            f"entry of a batch is {labels.dtype} {list(labels.shape)}; take a criterion without classes, such as "
            "'taylor'"
        )
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


def _are_labels(labels: torch.Tensor) -> bool:
    """Whether a tensor holds labels of classes, and not other numbers, such as depths."""
    if labels.ndim == 2:
        return bool(((labels == 0) | (labels == 1)).all())
    return not labels.is_floating_point() and not labels.is_complex()


def classes_of(outputs: Any) -> int:
    """Return the number of classes that a network predicts; 2 for a single output.

    Raises:
        DataError: the outputs are not one number per class.
    """
    if not isinstance(outputs, torch.Tensor) or outputs.ndim < 2:
        found = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise DataError(f"filters are judged by classes, but the network gives {found} instead of [N, classes, ...]")
    return max(2, outputs.shape[1])


def at_positions(labels_NYX: torch.Tensor, positions_NF: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Look up the labels at positions of a coarser map.

    Args:
        labels_NYX: labels per pixel, int64 [N, height, width].
        positions_NF: flat indices (row * width + column) into the map, int64 [N, filters].
        size: height and width of the map.

    Returns:
        int64 [N, filters].
    """
    height, width = labels_NYX.shape[1:]
    rows = ((positions_NF // size[1] + 0.5) * height / size[0]).long()
    columns = ((positions_NF % size[1] + 0.5) * width / size[1]).long()
    return labels_NYX.flatten(1).gather(1, (rows * width + columns).cpu())
