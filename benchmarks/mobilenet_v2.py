"""MobileNetV2 of torchvision with ImageNet weights from 8-bit codes, for 10 classes.

The codes are those of a network whose batch norms are folded; `w = (codes - zero) * scale`. Its convolutions of stride
2 pad on the right and at the bottom only. Inputs are (x - 128) / 128. Batch norms get the mean and the deviation of
what they see on some images, and weights and biases that undo them: otherwise the first step of training changes the
network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models import MobileNetV2

__all__ = ["mobilenet_v2"]


IMAGES, SIZE = 256, 96
"""Number of images that the batch norms see, and their height and width in pixels."""


def mobilenet_v2(imagenet: str = "", images: str = "", classes: int = 10, seed: int = 0) -> nn.Module:
    """Build the network.

    Args:
        imagenet: path of the .npz file with the codes; empty leaves random weights, for weights from a file.
        images: path of an .npz file with `images`, uint8 [N, height, width, 3], that the batch norms see.
        classes: number of outputs; the last layer is new.
        seed: seed of the last layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MobileNetV2(num_classes=classes)
    if imagenet:
        _load(model, Path(imagenet))
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.padding = (0, 0)
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), module))
    if images:
        _unfold(model.eval(), Path(images))
    return model.eval()


def _load(model: nn.Module, path: Path) -> None:
    """Give convolutions the weights, and the batch norms behind them the biases."""
    with np.load(path) as found:
        names = sorted({name.rpartition(".")[0] for name in found} - {"classifier.1"})
        for name in names:
            codes, zero, scale, bias = (found[f"{name}.{part}"] for part in ("codes", "zero", "scale", "bias"))
            weight = (codes.astype(np.float32) - np.float32(zero)) * scale
            parent, _, own = name.rpartition(".")
            norm = model.get_submodule(f"{parent}.{int(own) + 1}")
            with torch.no_grad():
                model.get_submodule(name).weight.copy_(torch.from_numpy(weight))
                norm.weight.fill_(1.0)
                norm.bias.copy_(torch.from_numpy(bias))
                norm.running_mean.zero_()
                norm.running_var.fill_(1.0 - norm.eps)


def _unfold(model: nn.Module, path: Path) -> None:
    """Give batch norms statistics without a change of the outputs."""

    def follow(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), unbiased=False)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.add_(mean)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    with np.load(path) as found:
        images = torch.from_numpy(found["images"][:IMAGES]).permute(0, 3, 1, 2).float()
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    handles = [each.register_forward_pre_hook(follow) for each in norms]
    with torch.no_grad():
        model(nn.functional.interpolate((images - 128) / 128, size=SIZE, mode="bilinear"))
    for handle in handles:
        handle.remove()
