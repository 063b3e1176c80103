"""Images with the depth of every pixel."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from torch import nn
from torch.nn import functional

from edakari.core.optional import needs
from edakari.core.output_kinds import OutputKind
from edakari.core.protocols import Batch, Split
from edakari.core.settings import Fraction, Positive, settings
from edakari.errors import DataError
from edakari.tasks.base import ImageTask
from edakari.tasks.drawing import grey
from edakari.tasks.example_data import ExampleData
from edakari.tasks.map_data import map_data
from edakari.tasks.map_placing import MapPlacing, Training
from edakari.tasks.settings import DataSettings
from edakari.tasks.sources.examples import Wanted
from edakari.tasks.splits import device_of, evaluating, named_metric

__all__ = ["Depth", "DepthSettings"]

NEAREST = 1e-3
"""Smallest depth of which a logarithm is taken, in the unit of the data."""
CLOSE = 1.25
"""Largest ratio of two depths that agree, as in Eigen et al., 2014."""


@settings
class DepthSettings:
    """How far away each pixel is.

    Args:
        scale: depth of the number 1 in the stored maps: 0.001 for millimetres, 1/256 for KITTI; depths are metres then.
        max_depth: largest depth that counts; None counts all.
        loss: "silog", the scale-invariant error of logarithms (Eigen et al., 2014), or "l1".
        scale_invariance: fraction of the squared mean error of an image that "silog" forgives.
        output: meaning of the network's output: "depth"; "softplus", which makes any number a depth; or "log", its
            logarithm. "silog" cannot raise depths that are 0 or below, so take it with "depth" only if the network's
            last layer gives positive numbers.
    """

    scale: Positive = 1.0
    max_depth: Positive | None = None
    loss: Literal["silog", "l1"] = "silog"
    scale_invariance: Fraction = 0.5
    output: Literal["depth", "softplus", "log"] = "softplus"

    output_kind: ClassVar[OutputKind] = "depth"

    def make(self, data: DataSettings, seed: int = 0) -> Depth:
        """Read names of files, but no images; see `edakari.tasks.map_data.map_data`.

        Args:
            data: settings of the data.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, empty, unreadable or of the wrong form.
            UnknownName: the metric or the format is unknown.
        """
        named_metric(data, Depth.metrics)
        wanted = Wanted("depth", broken=data.broken, scale=self.scale)

        def place(size: tuple[int, int], channels: int) -> MapPlacing:
            return MapPlacing(size, "depth", 0.0, data.resize, channels, data.pad, Training((1.0, 1.5)))

        return Depth(map_data("depth", wanted, data, place, nearer, seed), self)


@final
@dc.dataclass(frozen=True, eq=False)
class Depth(ImageTask):
    """How far away each pixel is: scale-invariant error of logarithms or absolute error, and the usual metrics.

    Args:
        data: images with depths; batches are images float32 [N, C, H, W] and depths float32 [N, H, W], 0 where unknown.
        options: settings of the task.
    """

    data: ExampleData
    options: DepthSettings = dc.field(default_factory=DepthSettings)

    metrics = ("delta1", "minus_abs_rel", "minus_rmse")

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return depths [N, H, W] at the images' size, where the network is.

        The network may give them smaller (they are resized bilinearly), as [N, 1, h, w] or [N, h, w], and may give a
        mapping with them as `out`, or an object with `predicted_depth`, as networks of transformers do.

        Raises:
            DataError: the network gives something else.
        """
        given: Any = self.called(model, batch)
        given = given["out"] if isinstance(given, Mapping) and "out" in given else given
        given = getattr(given, "predicted_depth", given)
        if isinstance(given, torch.Tensor) and given.ndim == 3:
            given = given[:, None]
        if not isinstance(given, torch.Tensor) or given.ndim != 4 or given.shape[1] != 1:
            found = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
            raise DataError(
                f"the network gives {found} for a batch, but data.task depth needs one number at every pixel: [N, 1, "
                "height, width] or [N, height, width]"
            )
        size = tuple(batch[0].shape[-2:])
        if tuple(given.shape[-2:]) != size:
            given = functional.interpolate(given, size, mode="bilinear", align_corners=False)
        depth_NYX: torch.Tensor = given[:, 0].float()
        if self.options.output == "log":
            return depth_NYX.exp()
        return functional.softplus(depth_NYX) if self.options.output == "softplus" else depth_NYX

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Return the term "silog" or "l1", mean over the images in which pixels count; 0 where none do.

        "silog" of an image is mean(d^2) - s * mean(d)^2 over its pixels that count, d being the difference of the
        logarithms and s `scale_invariance`; "l1" is the mean absolute difference.
        """
        aims, counts = self._aims(outputs, batch)
        if self.options.loss == "l1":
            return {"l1": _over_images(_within((outputs - aims).abs(), counts), counts)}
        apart = (outputs.clamp(min=NEAREST).log() - aims.clamp(min=NEAREST).log()) * counts
        each = _within(apart.square(), counts) - self.options.scale_invariance * _within(apart, counts).square()
        return {"silog": _over_images(each, counts)}

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the mean absolute difference from a teacher's depths, divided by distillation's T^2."""
        return (outputs - aims).abs().mean() / temperature**2

    def drawn(self, image: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Draw depths, the farthest one white; see `edakari.explain.predictions`."""
        return grey(shown)

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute the errors of each image over its pixels that count, and their means over the images.

        Returns:
            "delta1", fraction of pixels whose ratio to the true depth, or its inverse, is below 1.25; "abs_rel", mean
            absolute error relative to the true depth; "rmse", root of the mean squared error; "loss"; and the main
            metric if it is the negative of one of these.
        """
        with needs("train", "evaluating a network"):
            # here, for it takes a second or two to import
            from torchmetrics import MeanMetric

        device = device_of(model)
        means = {name: MeanMetric().to(device) for name in ("delta1", "abs_rel", "rmse", "loss")}
        with evaluating(model):
            for batch in self.batches(split):
                outputs = self.outputs(model, batch)
                aims, counts = self._aims(outputs, batch)
                there = counts.flatten(1).any(1)
                for name, each in _errors(outputs.clamp(NEAREST, self.options.max_depth), aims, counts).items():
                    means[name].update(each, there.float())
                means["loss"].update(sum(self.loss(outputs, batch).values()), there.float().sum())
        figures = {name: float(mean.compute()) for name, mean in means.items()}
        _, minus, name = self.metric.partition("minus_")
        return {**figures, self.metric: -figures[name]} if minus else figures

    def _aims(self, outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Depths [N, H, W], and where they count."""
        aims = batch[1].to(outputs.device, non_blocking=True)
        counts = aims > 0
        if self.options.max_depth is not None:
            counts = counts & (aims <= self.options.max_depth)
        return aims, counts


def nearer(targets: list[dict[str, Any]]) -> torch.Tensor:
    """Stack depths; what is zoomed is nearer by the same factor (Eigen et al., 2014, section 3.3)."""
    return torch.stack([target["depth"] / target["zoom"] for target in targets])


def _errors(found: torch.Tensor, aims: torch.Tensor, counts: torch.Tensor) -> dict[str, torch.Tensor]:
    """Errors of each image, [N]."""
    true = torch.where(counts, aims, torch.ones_like(aims))
    ratio = torch.maximum(found / true, true / found)
    return {
        "delta1": _within((ratio < CLOSE).float(), counts),
        "abs_rel": _within((found - true).abs() / true, counts),
        "rmse": _within((found - true).square(), counts).sqrt(),
    }


def _within(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean of each image over the pixels that count, [N]; 0 where none do."""
    kept = torch.where(counts, values, torch.zeros_like(values))
    return kept.flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)


def _over_images(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return values.sum() / counts.flatten(1).any(1).sum().clamp(min=1)
