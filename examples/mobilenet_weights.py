"""ImageNet weights of MobileNetV2 from 8-bit codes to a .safetensors file with the names of torchvision's network.

    python examples/mobilenet_weights.py CODES.npz BCCD/JPEGImages mobilenet_v2.safetensors

CODES.npz holds `NAME.codes`, `NAME.zero`, `NAME.scale` and `NAME.bias` of each convolution, into which its batch norm
was folded (as in TensorFlow Lite). Batch norms without statistics would change the network as soon as it trains. So
each gets those that its input has on some images of the folder IMAGES, with the scale and shift that undo them: in
evaluation the network computes the same as before.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from ssdlite import padded_below
from torch import nn
from torchvision.models import mobilenet_v2


def decoded(path: str) -> dict[str, torch.Tensor]:
    """Weights and biases by name."""
    found = np.load(path)
    names = sorted({name.rsplit(".", 1)[0] for name in found})
    tensors = {}
    for name in names:
        codes = found[f"{name}.codes"].astype(np.float32)
        tensors[f"{name}.weight"] = torch.from_numpy((codes - found[f"{name}.zero"]) * found[f"{name}.scale"])
        tensors[f"{name}.bias"] = torch.from_numpy(found[f"{name}.bias"])
    return tensors


def set_statistics(model: nn.Module, images: torch.Tensor) -> None:
    """Give each batch norm the statistics of its input, and keep what it computes."""

    def before(norm: nn.BatchNorm2d, given: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(given[0], (0, 2, 3), correction=0)
        with torch.no_grad():
            scale = (norm.running_var + norm.eps).rsqrt() * norm.weight
            shift = norm.bias - norm.running_mean * scale
            norm.weight.copy_(scale * (variance + norm.eps).sqrt())
            norm.bias.copy_(shift + scale * mean)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)

    handles = [each.register_forward_pre_hook(before) for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()


def network(path: str) -> nn.Module:
    """MobileNetV2 with the decoded weights; the batch norms do nothing but add the biases."""
    model, tensors = mobilenet_v2(), decoded(path)
    modules: dict[str, Any] = dict(model.named_modules())
    with torch.no_grad():
        for name, layer in modules.items():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.copy_(tensors[f"{name}.weight"].reshape(layer.weight.shape))
            if isinstance(layer, nn.Linear):
                layer.bias.copy_(tensors[f"{name}.bias"])
            if isinstance(layer, nn.Conv2d):
                home, _, number = name.rpartition(".")
                norm = modules[f"{home}.{int(number) + 1}"]
                norm.bias.copy_(tensors[f"{name}.bias"])
                norm.running_var.fill_(1 - norm.eps)
    return model


def pixels(folder: str, count: int = 64) -> torch.Tensor:
    """Some images of a folder, [N, 3, 224, 224], as the network takes them: from -1 to 1."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    picked = [paths[at] for at in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]
    read = [
        np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)) for path in picked
    ]
    return (torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).float() - 128) / 128


def main(codes: str, images: str, output: str) -> None:
    """Decode, set the statistics, and write."""
    model = network(codes)
    names = list(model.state_dict())
    padded_below(model.features)
    set_statistics(model, pixels(images))
    save_file(dict(zip(names, (value.contiguous() for value in model.state_dict().values()), strict=True)), output)


if __name__ == "__main__":
    main(*sys.argv[1:])
