"""Images that show any number of classes each."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edakari.core.optional import needs
from edakari.core.output_kinds import OutputKind
from edakari.core.protocols import Batch, Split
from edakari.core.settings import settings
from edakari.errors import DataError
from edakari.tasks.base import ImageTask, class_logits
from edakari.tasks.drawing import captioned
from edakari.tasks.image_data import ImageData, image_data
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources import Arrays, Labels, read_parts
from edakari.tasks.splits import device_of, evaluating, named_metric, require_own

__all__ = ["MultiLabel", "MultiLabelSettings"]


@settings
class MultiLabelSettings:
    """Which of some classes an image shows, each on its own; reads .npz files of `images` and `labels` [N, classes]."""

    output_kind: ClassVar[OutputKind] = "classes"

    def make(self, data: DataSettings, seed: int = 0) -> MultiLabel:
        """Read the data into memory.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, empty, unreadable or of the wrong form.
            UnknownName: the metric is unknown.
        """
        named_metric(data, MultiLabel.metrics)
        require_own(data, "multilabel")
        train, val = data.train or (data.source,), data.val
        if not all(path.endswith(".npz") for path in (*train, val or "x.npz")):
            raise DataError(f"data.task multilabel reads .npz files in data.train and data.val, found {[*train, val]}")
        found = _read(train, None)
        return MultiLabel(image_data(data, found, _read((val,), found) if val else None, seed=seed))


@final
@dc.dataclass(frozen=True, eq=False)
class MultiLabel(ImageTask):
    """Which of some classes an image shows, each on its own: binary cross-entropy and mean average precision.

    Args:
        data: images with labels 0 and 1 [N, classes].
    """

    data: ImageData

    metrics = ("map",)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits [N, classes], where the network is.

        Raises:
            DataError: the network has another number of outputs than there are classes.
        """
        return class_logits(self.called(model, batch), self.classes)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The term "binary_cross_entropy", mean over images and classes."""
        labels = batch[1].to(outputs.device, non_blocking=True).float()
        return {"binary_cross_entropy": functional.binary_cross_entropy_with_logits(outputs.float(), labels)}

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Divergence from a teacher's, of each class being there or not: sum over classes, mean over images."""
        own, aim = outputs.float() / temperature, aims.float() / temperature
        there, gone = aim.sigmoid(), (-aim).sigmoid()
        near = there * (functional.logsigmoid(aim) - functional.logsigmoid(own))
        far = gone * (functional.logsigmoid(-aim) - functional.logsigmoid(-own))
        return (near + far).sum(1).mean()

    def drawn(self, image: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Draw an image above its classes, or those of probability 0.5 or more; see `edakari.explain.predictions`."""
        there = shown.sigmoid() >= 0.5 if shown.is_floating_point() else shown > 0
        names = [name for name, found in zip(self.classes, there.tolist(), strict=True) if found]
        return captioned(image, names or ["none"])

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Mean average precision as a share, and the cross-entropy, over all processes.

        Returns:
            "map", mean over those classes that appear, and "loss".
        """
        with needs("train", "evaluating a network"):
            # here, for it takes a second or two to import
            from torchmetrics import MeanMetric
            from torchmetrics.classification import MultilabelAveragePrecision

        device = device_of(model)
        precision = MultilabelAveragePrecision(len(self.classes), average="none").to(device)
        loss = MeanMetric().to(device)
        with evaluating(model):
            for batch in self.batches(split):
                logits, labels = self.outputs(model, batch).float(), batch[1].to(device)
                # float64 still tells confident answers apart; torchmetrics would take logits for shares in some batches
                precision.update(logits.double().sigmoid(), labels)
                loss.update(functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none"))
        return {"map": float(precision.compute().nanmean()), "loss": float(loss.compute())}


def _read(paths: tuple[str, ...], like: Arrays | None) -> Arrays:
    parts, where = read_parts(paths), ", ".join(str(Path(path)) for path in paths)
    for images, labels, _ in parts:
        if labels.ndim != 2 or len(labels) != len(images) or not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"{where}: data.task is multilabel, and `labels` must be 0 or 1 [{len(images)}, classes], found "
                f"{labels.dtype} {list(labels.shape)}"
            )
    widths = sorted({part[1].shape[1] for part in parts} | ({len(like.classes)} if like else set()))
    if len(widths) > 1 or widths[0] < 2:
        raise DataError(f"{where}: labels of {widths} classes; two or more are needed, the same in all files")
    shown: Labels = np.concatenate([part[1] for part in parts]).astype(np.int64)
    if like is None and (shown == shown[:1]).all():
        raise DataError(f"{where}: all {len(shown)} images show the same classes; there is nothing to tell apart")
    names = like.classes if like else (parts[0][2] or tuple(str(number) for number in range(widths[0])))
    if len(names) != widths[0]:
        raise DataError(f"{where}: there are {len(names)} class_names for {widths[0]} classes")
    return Arrays(np.concatenate([part[0] for part in parts]), shown, names)
