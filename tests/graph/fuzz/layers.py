"""Steps with parameters of their own: convolutions, norms, linear layers, scales."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.nn.utils.parametrizations import weight_norm

from tests.graph.fuzz.kinds import Pick, Shape, divisors, layer

WIDTHS = (4, 2, 3, 5, 6, 8, 9, 12)


def image(x: Shape, *_: Shape) -> bool:
    return len(x) == 4


def sequence(x: Shape, *_: Shape) -> bool:
    return len(x) == 3


def channels(x: Shape, *_: Shape) -> bool:
    """Channels in dimension 1, whatever follows."""
    return 2 <= len(x) <= 4 and x[1] > 1


def anything(x: Shape, *_: Shape) -> bool:
    return len(x) > 1


@layer(image)
class Conv(nn.Module):
    """A convolution; depthwise where there are as many groups as channels."""

    def __init__(self, x: Shape, width: int, kernel: int, stride: int, groups: int, bias: bool, normed: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(x[1], width, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.conv = weight_norm(conv) if normed else conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        groups = pick(divisors(x[1])[:1] * 2 + divisors(x[1]))
        return {
            "width": pick([width for width in WIDTHS if width % groups == 0] or [groups]),
            "kernel": pick((1, 3)),
            "stride": pick((1, 1, 2)),
            "groups": groups,
            "bias": pick((False, True)),
            "normed": pick((False, False, False, True)),
        }


@layer(image)
class Patches(nn.Module):
    """Images as tokens, as vision transformers begin."""

    def __init__(self, x: Shape, width: int, patch: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(x[1], width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"width": pick((4, 6, 8, 9, 12)), "patch": pick((2, 1)) if min(x[2:]) > 1 else 1}


@layer(image)
class Transposed(nn.Module):
    """A transposed convolution."""

    def __init__(self, x: Shape, width: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(x[1], width, kernel, stride, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        groups = pick([1, *divisors(x[1])])
        widths = [width for width in WIDTHS if width % groups == 0] or [groups]
        return {"width": pick(widths), "kernel": pick((1, 2, 3)), "stride": pick((1, 2)), "groups": groups}


@layer(sequence)
class Conv1d(nn.Module):
    """A convolution along the last of two dimensions: of tokens, it mixes these."""

    def __init__(self, x: Shape, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(x[1], width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        groups = pick([1, *divisors(x[1])])
        widths = [width for width in WIDTHS if width % groups == 0] or [groups]
        return {"width": pick(widths), "kernel": pick((1, 3)), "groups": groups}


@layer(anything)
class Linear(nn.Module):
    """A linear layer over the last dimension."""

    def __init__(self, x: Shape, width: int, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(x[-1], width, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"width": pick(WIDTHS), "bias": pick((False, True))}


@layer(image)
class FlatLinear(nn.Module):
    """Space and channels flattened for a linear layer."""

    def __init__(self, x: Shape, width: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.features = x[1] * x[2] * x[3]
        self.linear = nn.Linear(self.features, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.how:
            case "flatten":
                x = x.flatten(1)
            case "view":
                x = x.contiguous().view(x.size(0), -1)
            case "features":
                x = x.reshape(-1, self.features)
            case "last":
                x = x.permute(0, 2, 3, 1).flatten(1)
        return self.linear(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"width": pick(WIDTHS), "how": pick(("flatten", "view", "features", "last"))}


@layer(channels)
class BatchNorm(nn.Module):
    """Batch norm with running statistics, perhaps without scale and shift."""

    def __init__(self, x: Shape, affine: bool) -> None:
        super().__init__()
        self.norm = (nn.BatchNorm1d if len(x) < 4 else nn.BatchNorm2d)(x[1], affine=affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"affine": pick((True, True, False))}


@layer(anything)
class LayerNorm(nn.Module):
    """Layer norm over the last dimensions."""

    def __init__(self, x: Shape, over: int, affine: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(x[-over:], elementwise_affine=affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"over": pick(range(1, len(x))), "affine": pick((True, False))}


@layer(image)
class LayerNormOfChannels(nn.Module):
    """Layer norm over the channels of images, written out or by way of another order of dimensions."""

    def __init__(self, x: Shape, how: str) -> None:
        super().__init__()
        self.how = how
        self.normalized_shape = (x[1],)
        self.weight, self.bias = nn.Parameter(torch.ones(x[1])), nn.Parameter(torch.zeros(x[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "permuted":
            x = x.permute(0, 2, 3, 1)
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias).permute(0, 3, 1, 2)
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - mean) / torch.sqrt(variance + 1e-6)) + self.bias[:, None, None]

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"how": pick(("written out", "permuted"))}


@layer(channels)
class GroupNorm(nn.Module):
    """Group norm."""

    def __init__(self, x: Shape, groups: int, affine: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, x[1], affine=affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        # one value per group would leave nothing but noise
        space = torch.Size(x[2:]).numel()
        groups = [each for each in divisors(x[1]) if x[1] // each * space > 1] or [1]
        return {"groups": pick(groups), "affine": pick((True, False))}


@layer(lambda x: len(x) == 4 and x[2] * x[3] > 1)
class InstanceNorm(nn.Module):
    """Instance norm by statistics of its own input."""

    def __init__(self, x: Shape, affine: bool) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(x[1], affine=affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"affine": pick((True, False))}


@layer(anything)
class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension, torch's or written out."""

    def __init__(self, x: Shape, how: str) -> None:
        super().__init__()
        self.how = how
        self.norm = nn.RMSNorm(x[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "torch":
            return self.norm(x)
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.norm.weight

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"how": pick(("torch", "written out"))}


@layer(channels)
class Slopes(nn.Module):
    """A rectifier with one slope, or one for each channel."""

    def __init__(self, x: Shape, slopes: int) -> None:
        super().__init__()
        self.rectifier = nn.PReLU(slopes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rectifier(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"slopes": pick((1, x[1]))}


@layer(anything)
class Scale(nn.Module):
    """A parameter times or plus one dimension, or the whole form."""

    def __init__(self, x: Shape, dim: int, whole: bool, added: bool) -> None:
        super().__init__()
        shape = (1, *x[1:]) if whole else (x[dim], *[1] * (len(x) - 1 - dim))
        self.added = added
        self.scale = nn.Parameter(torch.rand(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale if self.added else x * self.scale

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"dim": pick(range(1, len(x))), "whole": pick((False, True)), "added": pick((False, True))}


@layer(anything)
class Constant(nn.Module):
    """A buffer of one value per position of a dimension, which no weights made."""

    def __init__(self, x: Shape, dim: int) -> None:
        super().__init__()
        self.register_buffer("constant", torch.linspace(0.5, 1.5, x[dim]).view(-1, *[1] * (len(x) - 1 - dim)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.constant

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"dim": pick(range(1, len(x)))}


@layer(sequence)
class ClassToken(nn.Module):
    """A learnt token before the others."""

    def __init__(self, x: Shape, how: str) -> None:
        super().__init__()
        self.how = how
        self.token = nn.Parameter(torch.rand(1, 1, x[2]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.how:
            case "expand":
                token = self.token.expand(x.shape[0], -1, -1)
            case "shape":
                token = self.token.expand(x.shape[0], 1, x.shape[2])
            case "repeat":
                token = self.token.repeat(x.shape[0], 1, 1)
        return torch.cat((token, x), dim=1)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"how": pick(("expand", "shape", "repeat"))}


@layer(sequence)
class Positions(nn.Module):
    """Embeddings of positions, looked up by number."""

    def __init__(self, x: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(x[1], x[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.embedding(torch.arange(x.shape[1], device=x.device))

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {}


@layer(anything)
class Twice(nn.Module):
    """One square layer that is used two times, perhaps the second time transposed."""

    def __init__(self, x: Shape, transposed: bool, between: str) -> None:
        super().__init__()
        self.linear = nn.Linear(x[-1], x[-1])
        self.transposed = transposed
        self.between = {"relu": nn.ReLU(), "nothing": nn.Identity()}[between]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(self.linear(x))
        return F.linear(x, self.linear.weight.t()) if self.transposed else self.linear(x)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"transposed": pick((False, True)), "between": pick(("relu", "nothing"))}


@layer(image, lambda x, y: len(y) == 4 and x[1] == y[1])
class Shared(nn.Module):
    """One convolution over two values, as heads of detectors have it."""

    def __init__(self, x: Shape, y: Shape, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(x[1], width, 3, 1, 1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = self.norm(self.conv(x)), self.norm(self.conv(y))
        return torch.relu(x) + F.adaptive_avg_pool2d(y, x.shape[-2:])

    @staticmethod
    def draw(pick: Pick, x: Shape, y: Shape) -> dict[str, Any]:
        return {"width": pick(WIDTHS)}


@layer(lambda x: len(x) > 2)
class Einsum(nn.Module):
    """A parameter contracted with one dimension, which gets another width."""

    def __init__(self, x: Shape, dim: int, width: int) -> None:
        super().__init__()
        letters = "bcdefg"[: len(x)]
        self.equation = f"{letters},{letters[dim]}z->{letters.replace(letters[dim], 'z')}"
        self.weight = nn.Parameter(torch.randn(x[dim], width) / x[dim] ** 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum(self.equation, x, self.weight)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"dim": pick(range(1, len(x))), "width": pick(WIDTHS)}


@layer(lambda x: len(x) > 2 and x[1] > 1)
class Average(nn.Module):
    """The mean over dimension 1, with the width taken from where code takes it."""

    def __init__(self, x: Shape, how: str) -> None:
        super().__init__()
        self.how = how
        self.width = x[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.how:
            case "attribute":
                return x.sum(1) / self.width
            case "shape":
                return x.sum(1) / x.shape[1]
            case "size":
                return x.sum(1).div(x.size(1))
            case "root":
                return x.sum(1) * x.shape[1] ** -0.5
            case "product":
                return x.sum((1, 2)) / (self.width * x.shape[2])
        return x.mean(1)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"how": pick(("mean", "attribute", "shape", "size", "root", "product"))}
