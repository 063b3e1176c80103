"""Numbers that images show, such as an age, an angle or a position."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, final

import torch
from torch import nn
from torch.nn import functional

from edakari.core.optional import needs
from edakari.core.output_kinds import OutputKind
from edakari.core.protocols import Batch, Split
from edakari.core.settings import Positive, settings
from edakari.errors import DataError
from edakari.tasks.base import ImageTask
from edakari.tasks.drawing import captioned
from edakari.tasks.image_data import ImageData, image_data
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources.numbers import Numbered, numbered_dataset, numbered_sources
from edakari.tasks.splits import device_of, evaluating, named_metric, require_own

__all__ = ["Regression", "RegressionSettings"]


@settings
class RegressionSettings:
    """One or several numbers for each image, from .npz files, a table of files and numbers, or a data set of your own.

    Args:
        loss: "l1": absolute error; "mse": squared error; "huber": squared below `delta`, absolute above.
        delta: error at which "huber" changes, in the unit of the numbers.
    """

    loss: Literal["l1", "mse", "huber"] = "mse"
    delta: Positive = 1.0

    output_kind: ClassVar[OutputKind] = "numbers"

    def make(self, data: DataSettings, seed: int = 0) -> Regression:
        """Read the data; arrays into memory, and of tables the names.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, empty, unreadable or of the wrong form.
            UnknownName: the metric is unknown.
        """
        named_metric(data, Regression.metrics)
        require_own(data, "regression")
        train, val = _sources(data)
        found = image_data(data, train.images, None if val is None else val.images, seed=seed)
        if len(found.splits["val"].labels) < 2:
            raise DataError("data.task regression needs two validation images or more; r2 compares them")
        return Regression(found, self, train.names)


@final
@dc.dataclass(frozen=True, eq=False)
class Regression(ImageTask):
    """Numbers that images show: absolute or squared error, and the fraction of variance that is explained.

    Args:
        data: images with numbers, float32 [N, K].
        options: settings of the task.
        names: name of each number.
    """

    data: ImageData
    options: RegressionSettings = dc.field(default_factory=RegressionSettings)
    names: tuple[str, ...] = ("value",)

    metrics = ("r2", "minus_mae", "minus_rmse")

    @property
    def num_outputs(self) -> int:
        """Number of numbers for each image."""
        return len(self.names)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Numbers [N, K], where the network is; [N] of the network counts as [N, 1].

        Raises:
            DataError: the network gives something else, or another number of numbers than the data has.
        """
        found, count = self.called(model, batch), len(self.names)
        if isinstance(found, torch.Tensor) and found.ndim == 1 and count == 1:
            found = found[:, None]
        if not isinstance(found, torch.Tensor) or found.shape != (len(batch[0]), count):
            what = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise DataError(
                f"the network gives {what} for a batch of {len(batch[0])} images, but the data has {count} numbers "
                f"for each ({', '.join(self.names[:8])}), [{len(batch[0])}, {count}]"
            )
        return found

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The term "l1", "mse" or "huber", mean over images and numbers."""
        aims = batch[1].to(outputs.device, non_blocking=True)
        found = outputs if outputs.dtype == torch.float64 else outputs.float()
        losses: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
            "l1": functional.l1_loss,
            "mse": functional.mse_loss,
            "huber": lambda one, other: functional.huber_loss(one, other, delta=self.options.delta),
        }
        return {self.options.loss: losses[self.options.loss](found, aims.to(found.dtype))}

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Squared difference from a teacher's numbers, divided by the temperature; mean over images and numbers."""
        return ((outputs.float() - aims.float()) / temperature).square().mean()

    def drawn(self, image: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Draw an image above its numbers; see `edakari.explain.predictions`."""
        pairs = zip(self.names, shown.tolist(), strict=True)
        return captioned(image, [f"{name} {value:.4g}" for name, value in pairs])

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute errors in the unit of the numbers, over all processes.

        Returns:
            "r2", coefficient of determination, mean over the numbers; "mae" and "rmse", over images and numbers;
            "loss"; and the main metric if it is the negative of one of these.
        """
        with needs("train", "evaluating a network"):
            # here, for it takes a second or two to import
            from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, MetricCollection
            from torchmetrics.regression import R2Score

        device = device_of(model)
        # sums of squares in float32 would lose a variance that is small compared with the mean
        errors = MetricCollection(
            {"r2": R2Score(), "mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False)}
        ).to(device)
        errors.set_dtype(torch.float64)
        loss = MeanMetric().to(device)
        with evaluating(model):
            for batch in self.batches(split):
                found, aims = self.outputs(model, batch), batch[1].to(device)
                errors["r2"].update(found.double(), aims.double())
                errors["mae"].update(found.double().flatten(), aims.double().flatten())
                errors["rmse"].update(found.double().flatten(), aims.double().flatten())
                loss.update(self.loss(found, batch)[self.options.loss], len(aims))
        figures = {name: float(value) for name, value in errors.compute().items()}
        figures["loss"] = float(loss.compute())
        _, minus, name = self.metric.partition("minus_")
        return {**figures, self.metric: -figures[name]} if minus else figures


def _sources(data: DataSettings) -> tuple[Numbered, Numbered | None]:
    if data.datasets is None:
        return numbered_sources(data.source, data.train, data.val)
    train, val = data.datasets
    return numbered_dataset(train, "the training data"), None if val is None else numbered_dataset(
        val, "the validation data"
    )
