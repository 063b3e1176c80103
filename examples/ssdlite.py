"""SSDLite320 on a MobileNetV2, for `data.task: detection`: `model.name: examples/ssdlite.py:make`.

All parts are torchvision's. See recipes/bccd_ssdlite.yaml.
"""

from __future__ import annotations

from functools import partial

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation

NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
SCALES = (0.09, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
"""Sides of the default boxes at each of the six resolutions, relative to the image, and one more."""


class Backbone(nn.Module):
    """MobileNetV2 and four smaller resolutions behind it (Sandler et al., 2018, section 6.2)."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        last = features[14].conv  # its expansion is the last of stride 16
        self.near = nn.Sequential(*features[:14], last[0])
        self.far = nn.Sequential(last[1:], *features[15:])
        self.extra = nn.ModuleList([smaller(1280, 512), smaller(512, 256), smaller(256, 256), smaller(256, 128)])

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of strides 16, 32, and so on, by their number."""
        found = [self.near(images)]
        for block in (self.far, *self.extra):
            found.append(block(found[-1]))
        return {str(number): features for number, features in enumerate(found)}


def smaller(inputs: int, outputs: int) -> nn.Sequential:
    """A separable convolution that halves the resolution, with half as many channels inside."""
    layer, inside = partial(Conv2dNormActivation, norm_layer=NORM, activation_layer=nn.ReLU6), outputs // 2
    return nn.Sequential(
        layer(inputs, inside, kernel_size=1),
        layer(inside, inside, kernel_size=3, stride=2, groups=inside),
        layer(inside, outputs, kernel_size=1),
    )


def padded_below(features: nn.Sequential) -> nn.Sequential:
    """The same layers, but strided convolutions pad at the right and at the bottom only, as TensorFlow does."""
    for module in list(features.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                layer.padding = (0, 0)
                setattr(module, name, nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), layer))
    return features


def make(
    num_classes: int = 4, weights: str | None = None, pad_below: bool = False, frozen: int = 0, size: int = 320
) -> SSD:
    """The detector with random weights, but for its backbone.

    Args:
        num_classes: number of classes, the background among them.
        weights: weights of the backbone: "pretrained" for torchvision's, a .safetensors file with the names of
            torchvision's MobileNetV2, or None for random ones.
        pad_below: whether the weights are those of a network whose strided convolutions pad as in TensorFlow.
        frozen: number of first blocks of the backbone that do not train.
        size: side of the network's input in pixels.
    """
    given = MobileNet_V2_Weights.DEFAULT if weights == "pretrained" else None
    features = mobilenet_v2(weights=given).features
    if weights is not None and given is None:
        tensors = load_file(weights)
        features.load_state_dict({k.removeprefix("features."): v for k, v in tensors.items() if k.startswith("feat")})
    features[:frozen].requires_grad_(False)
    boxes = DefaultBoxGenerator([[2, 3]] * 6, scales=list(SCALES))
    head = SSDLiteHead([576, 1280, 512, 256, 256, 128], boxes.num_anchors_per_location(), num_classes, NORM)
    return SSD(
        Backbone(padded_below(features) if pad_below else features),
        boxes,
        (size, size),
        num_classes,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        head=head,
        score_thresh=0.01,
        nms_thresh=0.55,
        topk_candidates=300,
        detections_per_img=200,
    )


def example() -> torch.Tensor:
    """The input that `edakari inspect examples/ssdlite.py:make` takes."""
    return torch.zeros(1, 3, 320, 320)
