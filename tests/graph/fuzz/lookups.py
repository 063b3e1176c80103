"""Steps that find, read and write positions by number, act on regions or frequencies, or round to integers."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from tests.graph.fuzz.functions import alike, dims
from tests.graph.fuzz.kinds import Pick, Shape, divisors, function, layer
from tests.graph.fuzz.layers import anything, image, sequence

# found by value


@function(anything, dim=dims, name=("cumprod", "logcumsumexp", "cummin"))
def running(x: torch.Tensor, dim: int, name: str) -> torch.Tensor:
    found = getattr(torch, name)(torch.tanh(x), dim)
    return found if isinstance(found, torch.Tensor) else found.values


@function(anything, dim=dims, name=("aminmax", "nansum", "std_mean", "vector_norm", "minus infinity", "count"))
def statistic(x: torch.Tensor, dim: int, name: str) -> torch.Tensor:
    match name:
        case "aminmax":
            low, high = torch.aminmax(x, dim=dim, keepdim=True)
            return (x - low) / (1 + high - low)
        case "nansum":
            return x.nansum(dim)
        case "std_mean":
            return torch.std_mean(x, dim, correction=0)[1]
        case "vector_norm":
            return torch.linalg.vector_norm(x, 1, dim)
        case "minus infinity":
            return torch.linalg.vector_norm(x, -torch.inf, dim)
        case _:
            return x.mean(dim) + (x > 0).count_nonzero(dim)


@function(
    anything, dim=dims, how=("gather", "hard", "take", "kthvalue", "topk", "count"), found=("max", "min", "median")
)
def best(x: torch.Tensor, dim: int, how: str, found: str) -> torch.Tensor:
    index = getattr(torch, found)(x, dim, keepdim=True).indices
    match how:
        case "gather":
            return x - torch.tanh(x).gather(dim, index)
        case "hard":
            return x * torch.zeros_like(x).scatter(dim, index, 1.0)
        case "take":
            return torch.take_along_dim(x.sigmoid(), index, dim) + x
        case "kthvalue":
            return x.kthvalue(1, dim).values
        case "topk":
            return x.topk(1, dim).values
        case _:
            return x * index


# read and written by number


@function(lambda x: len(x) > 2, dim=dims, how=("gather", "scatter_add", "index_add", "index_copy", "index_fill", "put"))
def by_constants(x: torch.Tensor, dim: int, how: str) -> torch.Tensor:
    index = torch.arange(x.shape[dim], device=x.device).flip(0)
    match how:
        case "gather":
            shape = [1] * x.dim()
            shape[dim] = -1
            return x.gather(dim, index.view(shape).expand_as(x))
        case "scatter_add":
            return x.scatter_add(dim, torch.zeros_like(x, dtype=torch.int64), torch.tanh(x))
        case "index_add":
            return x.index_add(dim, index, x)
        case "index_copy":
            return torch.zeros_like(x).index_copy(dim, index, x)
        case "index_fill":
            return x.index_fill(dim, index[:1], 0.5)
        case _:
            y = x.transpose(0, dim).clone()
            y[index[:1]] = y[-1:]
            return y.transpose(0, dim)


@function(anything, alike, how=("mask", "fill", "copy", "where", "slice"))
def written(x: torch.Tensor, y: torch.Tensor, how: str) -> torch.Tensor:
    x = x.clone()
    match how:
        case "mask":
            x[y > 0] = 0.25
        case "fill":
            x.masked_fill_(y > 0, -0.25)
        case "copy":
            x[..., :1] = y[..., -1:]
        case "where":
            x.copy_(torch.where(y > 0, x, 0.0))
        case _:
            x[:, : x.shape[1] // 2] += y[:, : x.shape[1] // 2]
    return x


# frequencies and regions


@function(anything, how=("real", "absolute", "there and back", "filter"), dims=((-1,), (-2, -1), (1,)))
def frequencies(x: torch.Tensor, how: str, dims: tuple[int, ...]) -> torch.Tensor:
    chosen = dims if x.dim() > len(dims) else (-1,)
    found = torch.fft.rfftn(x, dim=chosen)
    match how:
        case "real":
            return found.real + 0.5 * found.imag
        case "absolute":
            return found.abs()
        case "filter":
            found = found * torch.polar(torch.ones_like(found.real), torch.ones_like(found.real))
    return torch.fft.irfftn(found, s=[x.shape[dim] for dim in chosen], dim=chosen)


@function(image, how=("align", "pool", "by position"))
def regions(x: torch.Tensor, how: str) -> torch.Tensor:
    size = min(x.shape[2:])
    boxes = [torch.tensor([[0.0, 0.0, size, size]], dtype=x.dtype, device=x.device)] * x.shape[0]
    match how:
        case "align":
            return torchvision.ops.roi_align(x, boxes, 2, sampling_ratio=2)
        case "pool":
            return torchvision.ops.roi_pool(x, boxes, 2)
        case _:
            return torchvision.ops.ps_roi_align(x.repeat_interleave(4, 1), boxes, 2, sampling_ratio=2)


@function(image, how=("fold", "unpool", "grid"))
def space_and_back(x: torch.Tensor, how: str) -> torch.Tensor:
    match how:
        case "fold":
            return F.fold(F.unfold(x, 3, padding=1), tuple(x.shape[2:]), 3, padding=1)
        case "unpool" if min(x.shape[2:]) > 1:
            found, index = F.max_pool2d(x, 2, return_indices=True)
            return F.max_unpool2d(found, index, 2, output_size=x.shape[2:])
        case _:
            theta = torch.eye(2, 3, dtype=x.dtype, device=x.device).expand(x.shape[0], 2, 3)
            return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


# layers


@layer(image)
class Deformed(nn.Module):
    """A deformable convolution with its offsets and its mask."""

    def __init__(self, x: Shape, width: int, kernel: int, groups: int, offset_groups: int, masked: bool) -> None:
        super().__init__()
        count = offset_groups * kernel**2
        self.offset = nn.Conv2d(x[1], 2 * count, kernel, padding=kernel // 2)
        self.mask = nn.Conv2d(x[1], count, 1) if masked else None
        self.conv = torchvision.ops.DeformConv2d(x[1], width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = None if self.mask is None else self.mask(x).sigmoid()
        return self.conv(x, self.offset(x), mask)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        groups = pick(divisors(x[1]))
        return {
            "width": groups * pick((2, 1, 3)),
            "kernel": pick((1, 3)),
            "groups": groups,
            "offset_groups": pick(divisors(x[1])),
            "masked": pick((False, True)),
        }


@layer(sequence, lambda x, y: x[:-1] == y[:-1] and len(y) == 3)
class Bilinear(nn.Module):
    """A product of two inputs and a weight."""

    def __init__(self, x: Shape, y: Shape, width: int) -> None:
        super().__init__()
        self.both = nn.Bilinear(x[-1], y[-1], width)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.both(x, y)

    @staticmethod
    def draw(pick: Pick, *shapes: Shape) -> dict[str, Any]:
        return {"width": pick((3, 4, 6))}


@layer(image)
class Quantized(nn.Module):
    """A convolution whose weight is rounded with a scale for each channel, its output with one for all."""

    def __init__(self, x: Shape, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(x[1], width, 1)
        self.register_buffer("scale", torch.rand(width) + 0.1)
        self.register_buffer("zero", torch.zeros(width, dtype=torch.int32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.fake_quantize_per_channel_affine(self.conv.weight, self.scale.float(), self.zero, 0, -8, 7)
        return torch.fake_quantize_per_tensor_affine(F.conv2d(x, weight, self.conv.bias), 0.05, 3, -128, 127)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"width": pick((3, 4, 6))}
