"""Embeddings of images: near for images of one class, far for others (metric learning)."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, final

import numpy as np
import torch
from annotated_types import Ge
from torch import nn
from torch.nn import functional

from edakari.core.output_kinds import OutputKind
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Split
from edakari.core.settings import Positive, settings
from edakari.errors import DataError
from edakari.tasks.base import ImageTask
from edakari.tasks.classify import labelled_sources
from edakari.tasks.image_data import ImageData, image_data
from edakari.tasks.order import ClassOrder
from edakari.tasks.retrieval import contrastive, retrieval_figures, triplet
from edakari.tasks.settings import DataSettings
from edakari.tasks.splits import evaluating, named_metric

__all__ = ["Embedding", "EmbeddingSettings"]


@settings
class EmbeddingSettings:
    """Embeddings in which images of one class are near each other; validation may show other classes than training.

    Args:
        loss: "triplet": the farthest image of the same class must be nearer than the nearest of another class, by a
            margin, in each batch; "contrastive": cross-entropy of the similarities, each image of the same class
            against all others in the batch (NT-Xent with labels).
        margin: margin between squared distances of unit vectors in the triplet loss.
        temperature: temperature of the similarities in the contrastive loss.
        images_per_class: images of a class that come together in a training batch, where the class has as many.
    """

    loss: Literal["triplet", "contrastive"] = "triplet"
    margin: Positive = 0.2
    temperature: Positive = 0.1
    images_per_class: Annotated[int, Ge(2)] = 4

    output_kind: ClassVar[OutputKind] = "vector"

    def make(self, data: DataSettings, seed: int = 0) -> Embedding:
        """Read the data; arrays into memory, and of folders the names.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, unreadable or of the wrong form, a batch is too small for two classes, or no
                class has two validation images.
            UnknownName: the metric or the embedded data set is unknown.
        """
        named_metric(data, Embedding.metrics)
        if data.batch_size < 2 * self.images_per_class:
            raise DataError(
                f"data.batch_size is {data.batch_size}, which has no place for two classes of {self.images_per_class} "
                f"images; take {2 * self.images_per_class} or more, or lower data.task.images_per_class"
            )
        train, val, notes = labelled_sources(data, same_classes=False)
        found = image_data(data, train, val, notes, seed)
        for split in ("train", "val"):
            if np.bincount(found.splits[split].labels).max(initial=0) < 2:
                raise DataError(f"data.task embedding: no class has two images in the {split} split; pairs are needed")
        return Embedding(found, self)


@final
@dc.dataclass(frozen=True, eq=False)
class Embedding(ImageTask):
    """Embeddings of images: a triplet or contrastive loss, and retrieval of images of the same class.

    Args:
        data: images and their classes; those of validation are counted by themselves.
        options: settings of the task.
    """

    data: ImageData
    options: EmbeddingSettings = dc.field(default_factory=EmbeddingSettings)

    metrics = ("recall_at_1", "recall_at_5", "map_at_r")

    def batches(self, split: Split) -> Iterable[Batch]:
        """Return the batches (images, labels) of a split; images of a class come together, except in validation.

        Raises:
            UnknownName: there is no such split.
        """
        if split == "val":
            return self.data.batches(split)
        order = self.data.order(split)
        grouped = ClassOrder(
            **{field.name: getattr(order, field.name) for field in dc.fields(order)},
            labels=self.data.source(split).labels,
            together=self.options.images_per_class,
        )
        return self.data.batches_in(split, grouped)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Embeddings [N, D] of length 1, where the network is.

        Raises:
            DataError: the network gives something else than one vector for each image.
        """
        found = self.called(model, batch)
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(batch[0]):
            what = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise DataError(
                f"the network gives {what} for a batch of {len(batch[0])} images; an embedding is one vector for each, "
                f"[{len(batch[0])}, D]"
            )
        return functional.normalize(found if found.dtype == torch.float64 else found.float(), dim=1)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The term "triplet" or "contrastive", mean over the images that have a pair in the batch; 0 if none has."""
        labels = batch[1].to(outputs.device, non_blocking=True)
        if self.options.loss == "triplet":
            return {"triplet": triplet(outputs, labels, self.options.margin)}
        return {"contrastive": contrastive(outputs, labels, self.options.temperature)}

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Squared distance between the embeddings of two networks, divided by the temperature; mean over images."""
        return ((outputs - aims) / temperature).square().sum(1).mean()

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute how well images find others of their class within the split, over all processes.

        Returns:
            "recall_at_1" and "recall_at_5", fraction of the images with one of their class among the nearest 1 and 5,
            and "map_at_r" (Musgrave et al., "A Metric Learning Reality Check", ECCV 2020), over all images whose class
            has another one.
        """
        vectors, labels = [], []
        with evaluating(model):
            for batch in self.batches(split):
                vectors.append(self.outputs(model, batch).cpu())
                labels.append(batch[1])
        own = (torch.cat(vectors), torch.cat(labels)) if vectors else (torch.empty(0, 0), torch.empty(0))
        parts = [part for part in Processes.here().gathered_objects(own) if len(part[1])]
        return retrieval_figures(torch.cat([one for one, _ in parts]), torch.cat([other for _, other in parts]))
