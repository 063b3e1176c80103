"""Parts of the supernet: its search block, and the modules that run and exchange branches of several resolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from edakari.models.embedded import ConvNorm
from edakari.models.token_mixer import TokenMixer

__all__ = ["Fusion", "Parallel", "SearchBlock"]

KERNELS = (3, 5, 7)
EXPAND = 4
"""Hidden channels of each path, as a multiple of the input channels."""

MakeBlock = Callable[[int, int, int], nn.Module]
"""Makes a block of so many input and output channels, with a stride."""


class SearchBlock(nn.Module):
    """Inverted-residual paths of three kernel sizes, summed and normalised, beside a shortcut.

    Units of a path are the channels of its depthwise convolution. The scales of the batch norm behind it are their
    gates.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        stride: stride of the depthwise convolutions and of the shortcut.
        tokens: number of tokens of a `TokenMixer` that is added to the shortcut; 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, tokens: int = 0) -> None:
        super().__init__()
        self.paths = nn.ModuleList(_path(inputs, outputs, kernel, stride) for kernel in KERNELS)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            groups = math.gcd(inputs, outputs)
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, groups=groups, bias=False)
        self.mixer = TokenMixer(inputs, outputs, tokens, stride) if tokens else None

    @property
    def gate_norms(self) -> tuple[str, ...]:
        """The batch norms whose scales gate the units of the paths that are left; see `methods.tickets.gates`."""
        return tuple(f"paths.{index}.1.1" for index, path in enumerate(self.paths) if _is_alive(path))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [N, outputs, H / stride, W / stride]."""
        found: torch.Tensor = self.paths[0](x)
        for path in self.paths[1:]:
            found = found + path(x)
        kept: torch.Tensor = self.shortcut(x)
        if self.mixer is not None:
            kept = kept + self.mixer(x)
        summed: torch.Tensor = kept + self.norm(found)
        return summed


def _is_alive(path: nn.Module) -> bool:
    """Whether a path still computes: those of a dropped one return their input, or zeros."""
    return isinstance(path, nn.Sequential) and isinstance(path[1], nn.Sequential)


def _path(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    hidden = EXPAND * inputs
    return nn.Sequential(
        ConvNorm(inputs, hidden, 1),
        ConvNorm(hidden, hidden, kernel, stride=stride, groups=hidden),
        nn.Conv2d(hidden, outputs, 1, bias=False),
    )


class Parallel(nn.Module):
    """Runs a chain of blocks on each branch.

    Args:
        widths: channels of each branch.
        counts: number of blocks of each branch.
        block: function that makes a block.
    """

    def __init__(self, widths: Sequence[int], counts: Sequence[int], block: MakeBlock) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(block(width, width, 1) for _ in range(count)))
            for width, count in zip(widths, counts, strict=True)
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return one map [N, C, H, W] for each branch."""
        return [branch(x) for branch, x in zip(self.branches, maps, strict=True)]


class Fusion(nn.Module):
    """Sums neighbouring branches in each branch, and adds branches of lower resolutions.

    A new branch is a block of stride 2 on the branch before it, after that branch's own sum.

    Args:
        inputs: channels of each branch before.
        outputs: channels of each branch after; at least as many.
        block: function that makes a block.
    """

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int], block: MakeBlock) -> None:
        super().__init__()
        self.sums = nn.ModuleList(_Sum(inputs, index, outputs[index], block) for index in range(len(inputs)))
        self.added = nn.ModuleList(
            block(outputs[index - 1], outputs[index], 2) for index in range(len(inputs), len(outputs))
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return one map [N, C, H, W] for each branch after."""
        fused = [summed(maps) for summed in self.sums]
        for block in self.added:
            fused.append(block(fused[-1]))
        return fused


class _Sum(nn.Module):
    """The sum of a branch with its neighbours, each through a block that brings it to this branch's shape."""

    def __init__(self, inputs: Sequence[int], index: int, width: int, block: MakeBlock) -> None:
        super().__init__()
        self.sources = [source for source in (index - 1, index, index + 1) if 0 <= source < len(inputs)]
        self.blocks = nn.ModuleList()
        for source in self.sources:
            resized = block(inputs[source], width, 2 if source < index else 1)
            if source > index:
                resized = nn.Sequential(resized, nn.Upsample(scale_factor=2, mode="nearest"))
            self.blocks.append(resized)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the rectified sum, [N, width, H, W]."""
        addends = [block(maps[source]) for block, source in zip(self.blocks, self.sources, strict=True)]
        found = addends[0]
        for addend in addends[1:]:
            found = found + fitted(addend, found)
        return functional.relu(found)


def fitted(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Resize a map to the height and width of another, if they differ: odd sizes do not double exactly."""
    size = like.shape[2:]
    return x if x.shape[2:] == size else functional.interpolate(x, size, mode="bilinear", align_corners=False)
