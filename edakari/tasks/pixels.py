"""Conversion of images in memory to the network's input, by a few tensor operations on a complete batch."""

from __future__ import annotations

import dataclasses as dc

import torch
from torch.nn import functional

from edakari.tasks.draws import Draws

__all__ = ["Pixels", "unit"]

Images = torch.Tensor


@dc.dataclass(frozen=True)
class Pixels:
    """Conversion of image bytes to the network's input, for complete batches.

    Args:
        size: height and width of the images; others are resized.
        channels: 1 or 3; grey is repeated, colours are averaged.
        mean: mean of each channel, for pixels in 0 to 1.
        std: standard deviation of each channel.
        pad: number of pixels to pad on each side before a random crop; 0 does not pad.
        flip: whether to mirror half of the images.
        jitter: largest relative change of brightness, contrast and saturation. Above 0, shifts show mirrored borders
            instead of black ones.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False
    jitter: float = 0.0

    @property
    def augments(self) -> bool:
        """Whether any augmentation is random."""
        return bool(self.pad or self.flip or self.jitter)

    def __call__(self, images: torch.Tensor, draws: Draws | None = None) -> Images:
        """Normalise images, and augment them if there are random numbers.

        Args:
            images: images, uint8 [N, H, W, C].
            draws: random numbers of each image, [N, DRAWS]: the device of the images has no say in them.

        Returns:
            float32 [N, channels, height, width], on the device of the images.
        """
        pixels = unit(images.permute(0, 3, 1, 2))
        if pixels.shape[1] != self.channels:
            pixels = pixels.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        if pixels.shape[-2:] != self.size:
            pixels = functional.interpolate(pixels, self.size, mode="bilinear", antialias=True)
        if draws is not None:
            pixels = self._augmented(pixels, draws)
        return self.normalized(pixels)

    def normalized(self, pixels: torch.Tensor) -> Images:
        """Normalise images.

        Args:
            pixels: images [N, channels, height, width], uint8 or from 0 to 1.

        Returns:
            float32 [N, channels, height, width], on their device.
        """
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1).to(pixels.device, non_blocking=True)
            for values in (self.mean, self.std)
        )
        if pixels.dtype == torch.uint8:
            # one new tensor instead of two, whose pages take longer to come by than the numbers
            return pixels.float().sub_(mean * 255).div_(std * 255).contiguous()
        return pixels.sub(mean).div_(std).contiguous()

    def _augmented(self, pixels: Images, draws: Draws) -> Images:
        count, device = len(pixels), pixels.device
        if self.jitter:
            factors = torch.from_numpy(1 + self.jitter * (2 * draws[:, 3:6].T - 1)).float()
            pixels = _coloured(pixels, factors[:, :, None, None, None].to(device))
        if self.flip:
            mirrored = torch.from_numpy(draws[:, 0] < 0.5).to(device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        if self.pad:
            padded = functional.pad(pixels, (self.pad,) * 4, mode="reflect" if self.jitter else "constant")
            tops, lefts = torch.from_numpy((draws[:, 1:3].T * (2 * self.pad + 1)).astype("int64")).to(device)
            rows = (tops[:, None] + torch.arange(self.size[0], device=device))[:, :, None]
            columns = (lefts[:, None] + torch.arange(self.size[1], device=device))[:, None, :]
            # Indexing moves the channels last: [N, height, width, C].
            numbers = torch.arange(count, device=device)[:, None, None]
            pixels = padded[numbers, :, rows, columns].permute(0, 3, 1, 2)
        return pixels


def unit(pixels: torch.Tensor) -> Images:
    """Return pixels from 0 to 1; bytes are divided by 255."""
    return pixels.float().div_(255.0) if pixels.dtype == torch.uint8 else pixels


def _coloured(pixels: Images, factors: torch.Tensor) -> Images:
    """Other brightness, contrast and saturation, as torchvision has them; factors are [3, N, 1, 1, 1]."""
    brightness, contrast, saturation = factors
    pixels = (pixels * brightness).clamp(0, 1)
    pixels = (contrast * pixels + (1 - contrast) * _grey(pixels).mean((1, 2, 3), keepdim=True)).clamp(0, 1)
    coloured: Images = (saturation * pixels + (1 - saturation) * _grey(pixels)).clamp(0, 1)
    return coloured


def _grey(pixels: Images) -> Images:
    """Compute luma [N, 1, H, W] (ITU-R BT.601)."""
    if pixels.shape[1] == 1:
        return pixels
    luma = torch.tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1).to(pixels.device)
    return (pixels * luma).sum(1, keepdim=True)
