"""The supernet of SuperTickets (You et al., 2022; from HR-NAS, Ding et al., 2021), and smaller ones like it."""

from __future__ import annotations

import dataclasses as dc
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import nn

from edakari.errors import ModelError
from edakari.models.embedded import ConvNorm
from edakari.models.supernet_blocks import Fusion, MakeBlock, Parallel, SearchBlock, fitted

__all__ = ["PRESETS", "Preset", "Stage", "Supernet", "supernet"]

Head = Literal["classification", "segmentation", "pose"]
Transformer = Literal["none", "residual", "all"]
CLASSES: Mapping[Head, int] = MappingProxyType({"classification": 1000, "segmentation": 19, "pose": 17})


@dc.dataclass(frozen=True)
class Stage:
    """Sizes of one stage.

    Args:
        widths: channels of each branch, the highest resolution first.
        blocks: blocks of each branch in the parallel module.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]


@dc.dataclass(frozen=True)
class Preset:
    """Sizes of a supernet.

    Args:
        stem: output channels of the two convolutions of the stem.
        strides: their strides.
        stages: stages of the backbone.
        classifier: channels of each branch in the head for classification.
        features: channels that the classifier reads.
        dense: output channels of the block in the head for segmentation and poses.
        sizes: (height, width) of the images that each head is meant for.
    """

    stem: tuple[int, int]
    strides: tuple[int, int]
    stages: tuple[Stage, ...]
    classifier: tuple[int, ...]
    features: int
    dense: int
    sizes: Mapping[Head, tuple[int, int]]


FOUR = Stage((18, 36, 72, 144), (2, 2, 3, 4))
TWO = (8, 16)
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "paper": Preset(
            stem=(24, 24),
            strides=(2, 2),
            stages=(Stage((24,), (1,)), Stage((18, 36), (2, 2)), Stage((18, 36, 72), (2, 2, 3)), FOUR, FOUR),
            classifier=(36, 72, 144, 320),
            features=1600,
            dense=90,
            sizes={"classification": (224, 224), "segmentation": (512, 1024), "pose": (256, 192)},
        ),
        "small": Preset(
            stem=(8, 8),
            strides=(2, 2),
            stages=(Stage((8,), (1,)), Stage(TWO, (2, 2)), Stage(TWO, (2, 2))),
            classifier=(16, 32),
            features=128,
            dense=16,
            sizes=dict.fromkeys(CLASSES, (32, 32)),
        ),
        "tiny": Preset(
            stem=(8, 8),
            strides=(2, 2),
            stages=(Stage((8,), (1,)), Stage(TWO, (1, 1))),
            classifier=(16, 32),
            features=64,
            dense=8,
            sizes=dict.fromkeys(CLASSES, (32, 32)),
        ),
    }
)


class Supernet(nn.Module):
    """Branches of several resolutions that exchange features at each stage, and a head for one task.

    Args:
        preset: sizes of the network.
        head: task of the head.
        num_classes: number of outputs: classes, or joints.
        block: function that makes a block of so many input and output channels, with a stride.
        in_chans: channels of the images.
        backbone: task on which stem and stages were trained, whose batch norms have its settings; None for that of
            `head`.
    """

    def __init__(
        self,
        preset: Preset,
        head: Head,
        num_classes: int,
        block: MakeBlock,
        in_chans: int = 3,
        backbone: Head | None = None,
    ) -> None:
        super().__init__()
        first, second = preset.stem
        self.stem = nn.Sequential(
            ConvNorm(in_chans, first, 3, stride=preset.strides[0]), ConvNorm(first, second, 3, stride=preset.strides[1])
        )
        self.stages = nn.Sequential()
        widths: tuple[int, ...] = (second,)
        for stage in preset.stages:
            parallel = Parallel(stage.widths, stage.blocks, block)
            self.stages.append(nn.Sequential(Fusion(widths, stage.widths, block), parallel))
            widths = stage.widths
        if head == "classification":
            self.head: nn.Module = _Classifier(widths, preset.classifier, preset.features, num_classes, block)
        else:
            self.head = _Dense(widths, preset.dense, num_classes, block)
        # the convention of timm: `default_example` reads it
        self.default_cfg = {"input_size": (in_chans, *preset.sizes[head])}
        _initialise(self, head)
        for part in (self.stem, self.stages):
            _set_norms(part, backbone or head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [N, K] of images [N, C, H, W]; segmentation and pose: [N, K, H / 4, W / 4]."""
        maps = [self.stem(x)]
        found: torch.Tensor = self.head(self.stages(maps))
        return found


class _Classifier(nn.Module):
    """Gathers all branches in the lowest resolution and classifies the mean of its features."""

    def __init__(
        self, inputs: Sequence[int], widths: Sequence[int], features: int, num_classes: int, block: MakeBlock
    ) -> None:
        super().__init__()
        self.widen = nn.ModuleList(block(before, after, 1) for before, after in zip(inputs, widths, strict=True))
        self.down = nn.ModuleList(block(above, below, 2) for above, below in itertools.pairwise(widths))
        self.features = ConvNorm(widths[-1], features, 1)
        self.drop = nn.Dropout(0.2)
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return logits [N, K]."""
        found = self.widen[0](maps[0])
        for widen, down, x in zip(self.widen[1:], self.down, maps[1:], strict=True):
            found = widen(x) + down(found)
        logits: torch.Tensor = self.classifier(self.drop(self.features(found).mean((2, 3))))
        return logits


class _Dense(nn.Module):
    """Concatenates all branches in the highest resolution and predicts each position."""

    def __init__(self, inputs: Sequence[int], width: int, num_classes: int, block: MakeBlock) -> None:
        super().__init__()
        self.block = block(sum(inputs), width, 1)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return logits or heatmaps [N, K, H, W] in the resolution of the first branch."""
        together = torch.cat([maps[0], *(fitted(x, maps[0]) for x in maps[1:])], 1)
        found: torch.Tensor = self.classifier(self.block(together))
        return found


def supernet(
    head: Head = "classification",
    num_classes: int | None = None,
    preset: str = "paper",
    head_width: int | None = None,
    transformer: Transformer = "none",
    tokens: int = 64,
    in_chans: int = 3,
    backbone: Head | None = None,
) -> nn.Module:
    """Build the supernet of SuperTickets, or a smaller one.

    Args:
        head: "classification"; "segmentation" and "pose" have outputs at a quarter of the image's resolution.
        num_classes: number of outputs. Default: 1000 classes of ImageNet, 19 of Cityscapes, 17 joints of COCO.
        preset: "paper"; "small" and "tiny" have two branches of 8 and 16 channels, for images of 32 pixels.
        head_width: output channels of the block in a dense head. Default: 90 in the paper's preset; ADE20K has 180.
        transformer: shortcuts that a token mixer is added to: "none"; "residual", the identity ones; or "all".
        tokens: number of tokens of each mixer.
        in_chans: channels of the images.
        backbone: task on which stem and stages were trained: their batch norms have its settings. Default: that of
            `head`. `edakari.transfer` sets it.

    Raises:
        ModelError: an option has an unknown value.
    """
    # differs: the release declares token mixers but never builds them; here they are an option that does
    for option, value, known in (
        ("head", head, get_args(Head)),
        ("backbone", backbone or head, get_args(Head)),
        ("preset", preset, tuple(PRESETS)),
        ("transformer", transformer, get_args(Transformer)),
    ):
        if value not in known:
            raise ModelError(f"edakari:supernet: {option}={value!r} is unknown; choose one of {', '.join(known)}")
    if head_width is not None and head == "classification":
        raise ModelError("edakari:supernet: head_width is for the heads segmentation and pose; omit it")
    if min(tokens, 1 if num_classes is None else num_classes, in_chans, 1 if head_width is None else head_width) < 1:
        raise ModelError("edakari:supernet: tokens, num_classes, head_width and in_chans must be at least 1")
    sizes = PRESETS[preset]
    sizes = sizes if head_width is None else dc.replace(sizes, dense=head_width)
    block = functools.partial(_block, transformer, tokens)
    return Supernet(sizes, head, CLASSES[head] if num_classes is None else num_classes, block, in_chans, backbone)


def _block(transformer: Transformer, tokens: int, inputs: int, outputs: int, stride: int) -> nn.Module:
    mixes = transformer == "all" or (transformer == "residual" and stride == 1 and inputs == outputs)
    # differs: without a second set of batch norms, which the release holds for a distillation that it never runs
    return SearchBlock(inputs, outputs, stride, tokens if mixes else 0)


def _initialise(model: nn.Module, head: Head) -> None:
    """Set initial weights and the settings of batch norms: section 5 of the specification of each task."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=0.001 if head == "pose" else math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.out_features)
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    _set_norms(model, head)


def _set_norms(model: nn.Module, task: Head) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.eps = (0.1, 1e-5) if task == "pose" else (0.01, 1e-3)
