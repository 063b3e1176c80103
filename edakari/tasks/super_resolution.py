"""Images at a higher resolution."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from annotated_types import Interval
from torch import nn

from edakari.core.optional import needs
from edakari.core.output_kinds import OutputKind
from edakari.core.protocols import Batch, Split
from edakari.core.settings import Whole, settings
from edakari.errors import DataError
from edakari.tasks.base import ImageTask
from edakari.tasks.example_data import ExampleData
from edakari.tasks.map_data import map_data, stacked
from edakari.tasks.settings import Augment, DataSettings
from edakari.tasks.sources.examples import Examples, Wanted, sizes_of
from edakari.tasks.splits import device_of, evaluating, named_metric
from edakari.tasks.transforms import JITTER

__all__ = ["SuperResolution", "SuperResolutionSettings"]

PLAIN = ((0.0,), (1.0,))
"""Mean and standard deviation of pixels in 0 to 1: the networks of this task take images as they are."""
LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""Weights of red, green and blue in the Y channel of ITU-R BT.601, in which papers compare; it begins at 16/255."""
WINDOW = 11
"""Side of the window of SSIM, in pixels."""
LARGEST = 100.0
"""Largest PSNR of an image in dB, for images that are equal to the original."""


@settings
class SuperResolutionSettings:
    """What an image looks like at a higher resolution.

    Args:
        factor: how many times as high and wide the network's output is.
        channel: channels that PSNR and SSIM compare: "y", the brightness, as in most papers, or "rgb".
        shave: pixels at each border that PSNR and SSIM leave out; None leaves out `factor`.
    """

    factor: Annotated[int, Interval(ge=2, le=16)] = 2
    channel: Literal["y", "rgb"] = "y"
    shave: Whole | None = None

    output_kind: ClassVar[OutputKind] = "image"

    def make(self, data: DataSettings, seed: int = 0) -> SuperResolution:
        """Read names of files, but no images; see `edakari.tasks.map_data.map_data`.

        Args:
            data: settings of the data; `image_size` is the size of the network's input, a crop at low resolution.
            seed: seed of the training's order and augmentation.

        Raises:
            DataError: the data is missing, empty or unreadable, or images are smaller than a crop.
            UnknownName: the metric or the format is unknown.
        """
        named_metric(data, SuperResolution.metrics)
        if data.size is None:
            raise DataError(
                "data.task super_resolution needs data.image_size, the size of the network's input, such as 48"
            )
        high, wide = (side * self.factor for side in data.size)
        shaved = min(high, wide) - 2 * self.border
        if shaved < WINDOW:
            raise DataError(
                f"data.task super_resolution: outputs of {high}x{wide} pixels have {max(0, shaved)} without their "
                f"borders (shave), but SSIM needs {WINDOW}; raise data.image_size"
            )

        def place(size: tuple[int, int], channels: int) -> Shrinking:
            return Shrinking(size, self.factor, channels)

        plain = dc.replace(data, mean=data.mean or PLAIN[0], std=data.std or PLAIN[1])
        made = map_data("super_resolution", Wanted("image", broken=data.broken), plain, place, stacked("high"), seed)
        for split in ("train", "val"):
            _require_size(made.splits[split], (high, wide), split)
        return SuperResolution(made, self)

    @property
    def border(self) -> int:
        """Pixels at each border that metrics leave out."""
        return self.factor if self.shave is None else self.shave


@final
@dc.dataclass(frozen=True, eq=False)
class SuperResolution(ImageTask):
    """What an image looks like at a higher resolution: absolute error, PSNR and SSIM.

    Args:
        data: images; batches are images of low resolution float32 [N, C, h, w], shrunk by an antialiased bicubic
            filter, and the originals float32 [N, C, factor * h, factor * w] in 0 to 1.
        options: settings of the task.
    """

    data: ExampleData
    options: SuperResolutionSettings = dc.field(default_factory=SuperResolutionSettings)

    metrics = ("psnr", "ssim")

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return images [N, C, factor * h, factor * w], where 0 is black and 1 is white.

        The network may give an object with them as `reconstruction`, as networks of transformers do.

        Raises:
            DataError: the network gives something else, or images of another size.
        """
        given: Any = self.called(model, batch)
        found = getattr(given, "reconstruction", given)
        shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        if shape != list(batch[1].shape):
            raise DataError(
                f"the network gives {shape} for images {list(batch[0].shape)}, but data.task super_resolution with "
                f"factor {self.options.factor} needs {list(batch[1].shape)}"
            )
        images: torch.Tensor = found
        return images

    def loss(self, outputs: torch.Tensor, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Return the term "l1", the mean absolute error of pixels."""
        return {"l1": (outputs.float() - batch[1].to(outputs.device, non_blocking=True)).abs().mean()}

    def divergence(self, outputs: torch.Tensor, aims: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the mean absolute difference from a teacher's images, divided by distillation's T^2."""
        return (outputs.float() - aims.float()).abs().mean() / temperature**2

    def drawn(self, image: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Return the image at its higher resolution as a picture; see `edakari.explain.predictions`."""
        pixels = (shown.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        return pixels.expand(3, -1, -1)

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute means over the images, each the crop in the middle of an image.

        Returns:
            "psnr", peak signal-to-noise ratio in dB, at most 100 for each image; "ssim", structural similarity; and
            "loss".
        """
        with needs("train", "evaluating a network"):
            # here, for it takes a second or two to import
            from torchmetrics import MeanMetric
            from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        device = device_of(model)
        means = {name: MeanMetric().to(device) for name in ("psnr", "ssim", "loss")}
        with evaluating(model):
            for batch in self.batches(split):
                outputs = self.outputs(model, batch).float()
                means["loss"].update(self.loss(outputs, batch)["l1"], len(outputs))
                found, true = self._compared(outputs.clamp(0, 1)), self._compared(batch[1].to(device))
                psnr = peak_signal_noise_ratio(found, true, data_range=1.0, dim=(1, 2, 3), reduction="none")
                ssim: Any = structural_similarity_index_measure(found, true, data_range=1.0, reduction="none")
                means["psnr"].update(psnr.clamp(max=LARGEST))
                means["ssim"].update(ssim)
        return {name: float(mean.compute()) for name, mean in means.items()}

    def _compared(self, images: torch.Tensor) -> torch.Tensor:
        """Images without their borders, in the channels of the metrics."""
        border = self.options.border
        inner = images[..., border : images.shape[-2] - border, border : images.shape[-1] - border]
        if self.options.channel == "rgb" or inner.shape[1] != 3:
            return inner
        weights = torch.tensor(LUMA, device=inner.device).view(1, 3, 1, 1)
        return (inner * weights).sum(1, keepdim=True) + 16 / 255


@dc.dataclass(frozen=True)
class Shrinking:
    """Makes the transforms of images; see `edakari.tasks.example_data.Prepare`.

    "light" takes crops at random and mirrors half of them; "jitter" changes brightness, contrast and saturation too.

    Args:
        size: height and width of the network's input.
        factor: how many times as high and wide a crop is.
        channels: channels of the network's input; 1 takes the mean of colours.
    """

    size: tuple[int, int]
    factor: int
    channels: int = 3

    def __call__(self, augment: Augment) -> Shrunk:
        """Return the transform of an augmentation."""
        return Shrunk(self, augment)


@dc.dataclass(frozen=True)
class Shrunk:
    """Transform from an image to a crop at low resolution, and the crop itself as `high` of the target.

    Args:
        shrinking: size of the crops.
        augment: augmentation; "none" takes the middle of an image.
    """

    shrinking: Shrinking
    augment: Augment

    def __call__(self, image: Any, target: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Transform an image, uint8 [3, H, W], of at least the size of a crop."""
        with needs("train", "resizing and augmenting images"):
            from torchvision.transforms import v2

        torchvision: Any = v2
        side = [length * self.shrinking.factor for length in self.shrinking.size]
        if self.augment == "none":
            crop = torchvision.CenterCrop(side)(image)
        else:
            colours = [torchvision.ColorJitter(JITTER, JITTER, JITTER)] if self.augment == "jitter" else []
            crop = torchvision.Compose([torchvision.RandomCrop(side), *colours, torchvision.RandomHorizontalFlip()])(
                image
            )
        crop = torch.as_tensor(crop).as_subclass(torch.Tensor)
        if self.shrinking.channels == 1:
            crop = crop.float().mean(0, keepdim=True).round().to(torch.uint8)
        bicubic = torchvision.InterpolationMode.BICUBIC
        low = torchvision.functional.resize(crop, list(self.shrinking.size), interpolation=bicubic, antialias=True)
        return low, {**target, "high": crop.float() / 255}


def _require_size(examples: Examples, size: tuple[int, int], split: str) -> None:
    """Raise an error for images that are smaller than a crop.

    Raises:
        DataError: there are some.
    """
    sizes = sizes_of(examples)
    small = ((sizes > 0) & (sizes < size)).any(1)
    if small.any():
        first = sizes[small][0].tolist()
        raise DataError(
            f"data.task super_resolution: {int(small.sum()):,} of {len(sizes):,} images of {split!r} are smaller than "
            f"a crop of {size[0]}x{size[1]} pixels, such as one of {first[0]}x{first[1]}; lower data.image_size or "
            "leave them out"
        )
