"""Small networks that ship with edakari, or that pruning papers use for comparisons."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from edakari.core.optional import needs

__all__ = ["FashionCNN", "ResNetCIFAR", "fashion_cnn", "fashion_vit", "resnet20", "resnet56"]

Shortcut = Literal["conv", "pad"]


class ConvNorm(nn.Sequential):
    """Convolution and batch normalisation with an optional ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if act else []))


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (He et al., 2016, section 3.3).

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        stride: stride of the first convolution.
        shortcut: shortcut where the shape changes: "conv" is a 1x1 convolution (option B), "pad" pads with zeros
            (option A).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shortcut: Shortcut = "conv"):
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride=stride)
        self.second = ConvNorm(outputs, outputs, 3, act=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = (
            ConvNorm(inputs, outputs, 1, stride=stride, act=False) if changes and shortcut == "conv" else None
        )
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [N, outputs, H / stride, W / stride]."""
        kept = x
        if self.shortcut is not None:
            kept = self.shortcut(x)
        elif self.stride != 1 or self.extra:
            kept = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2)
            )
        merged: torch.Tensor = self.second(self.first(x)) + kept
        return functional.relu(merged)


class InvertedResidual(nn.Module):
    """Inverted residual block: expand, filter depthwise, project (Sandler et al., 2018, section 3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int):
        super().__init__()
        hidden = inputs * expand
        self.widen = ConvNorm(inputs, hidden, 1)
        self.depthwise = ConvNorm(hidden, hidden, 3, stride=stride, groups=hidden)
        self.narrow = ConvNorm(hidden, outputs, 1, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features [N, outputs, H / stride, W / stride]."""
        found: torch.Tensor = self.narrow(self.depthwise(self.widen(x)))
        return x + found if self.residual else found


class FashionCNN(nn.Module):
    """CNN for 28x28 grey images with residual blocks and depthwise convolutions."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.stem = ConvNorm(1, 32, 3, stride=2)
        self.blocks = nn.Sequential(
            BasicBlock(32, 32),
            InvertedResidual(32, 64, stride=2, expand=4),
            InvertedResidual(64, 64, stride=1, expand=4),
            InvertedResidual(64, 64, stride=1, expand=4),
            InvertedResidual(64, 96, stride=1, expand=4),
        )
        self.head = ConvNorm(96, 192, 1)
        self.classifier = nn.Linear(192, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of images [N, 1, 28, 28]."""
        features: torch.Tensor = self.head(self.blocks(self.stem(x)))
        logits: torch.Tensor = self.classifier(features.mean((2, 3)))
        return logits


class ResNetCIFAR(nn.Module):
    """ResNet for 32x32 images of 6n + 2 layers (He et al., 2016, section 4.2).

    Args:
        depth: number of weighted layers: 20, 32, 44, 56, 110.
        num_classes: number of logits.
        shortcut: "conv" (option B) or "pad" (option A, the paper's choice).
    """

    def __init__(self, depth: int, num_classes: int = 10, shortcut: Shortcut = "conv"):
        super().__init__()
        per_stage = (depth - 2) // 6
        self.stem = ConvNorm(3, 16, 3)
        self.stages = nn.Sequential()
        inputs = 16
        for outputs, stride in ((16, 1), (32, 2), (64, 2)):
            blocks = [BasicBlock(inputs, outputs, stride, shortcut)]
            blocks += [BasicBlock(outputs, outputs) for _ in range(per_stage - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of images [N, 3, 32, 32]."""
        logits: torch.Tensor = self.classifier(self.stages(self.stem(x)).mean((2, 3)))
        return logits


def fashion_cnn(num_classes: int = 10) -> nn.Module:
    """Build the embedded CNN for Fashion-MNIST."""
    return FashionCNN(num_classes)


def fashion_vit(num_classes: int = 10) -> nn.Module:
    """Build the embedded vision transformer for Fashion-MNIST: 49 patches of 4x4, width 64, 6 blocks of 4 heads."""
    with needs("train", "the network edakari:fashion_vit"):
        # imported here because it takes seconds
        from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=28, patch_size=4, in_chans=1, num_classes=num_classes, embed_dim=64, depth=6, num_heads=4, mlp_ratio=4
    )


def resnet20(num_classes: int = 10, shortcut: Shortcut = "conv") -> nn.Module:
    """Build ResNet-20 for CIFAR."""
    return ResNetCIFAR(20, num_classes, shortcut)


def resnet56(num_classes: int = 10, shortcut: Shortcut = "conv") -> nn.Module:
    """Build ResNet-56 for CIFAR."""
    return ResNetCIFAR(56, num_classes, shortcut)
