"""Steps without parameters: what acts by position, reductions, joins and cuts, other forms, space."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from tests.graph.fuzz.kinds import Shape, divisors, function
from tests.graph.fuzz.layers import anything, channels, image, sequence


def dims(x: Shape) -> list[int]:
    """Every dimension but the batch, also counted from the end."""
    return [*range(1, len(x)), *range(1 - len(x), 0)]


def alike(x: Shape, y: Shape) -> bool:
    return x == y


# by position


ACTIVATIONS = "relu gelu silu sigmoid tanh hardswish leaky_relu elu softplus mish relu6 hardsigmoid softsign logsigmoid"


@function(anything, name=ACTIVATIONS.split())
def activation(x: torch.Tensor, name: str) -> torch.Tensor:
    return getattr(F, name)(x)


@function(anything, name="abs exp square cos sign round".split())
def elementwise(x: torch.Tensor, name: str) -> torch.Tensor:
    return getattr(torch, name)(torch.tanh(x))


@function(anything)
def in_place(x: torch.Tensor) -> torch.Tensor:
    x = x * 0.5
    x += 1
    return x.relu_()


@function(anything, low=(-1, 0))
def clamp(x: torch.Tensor, low: float) -> torch.Tensor:
    return x.clamp(min=low)


@function(anything, alike)
def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


@function(anything, alike, name=("sub", "maximum", "minimum"))
def combine(x: torch.Tensor, y: torch.Tensor, name: str) -> torch.Tensor:
    return getattr(torch, name)(x, y)


@function(anything, alike)
def gate(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(y)


@function(anything, alike)
def choose(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, y)


@function(anything, alike, weight=(0.5, 0.25))
def lerp(x: torch.Tensor, y: torch.Tensor, weight: float) -> torch.Tensor:
    return torch.lerp(x, y, weight)


@function(anything, alike)
def divide(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x / (1 + y.abs())


@function(anything, lambda x, y: len(x) == len(y) and all(a in (b, 1) or b == 1 for a, b in zip(x, y, strict=True)))
def broadcast(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + torch.tanh(y)


@function(lambda x: len(x) > 2, lambda x, y: y == x[:2])
def broadcast_leading(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(y).view(*y.shape, *[1] * (x.dim() - 2))


@function(anything, dim=dims, log=(False, True))
def softmax(x: torch.Tensor, dim: int, log: bool) -> torch.Tensor:
    return x.log_softmax(dim) if log else x.softmax(dim)


@function(anything, dim=dims)
def normalize(x: torch.Tensor, dim: int) -> torch.Tensor:
    return F.normalize(x, dim=dim)


@function(anything, how=("zeros_like", "ones", "full", "new", "shape"))
def add_constant(x: torch.Tensor, how: str) -> torch.Tensor:
    match how:
        case "zeros_like":
            return x + torch.zeros_like(x)
        case "ones":
            return x + torch.ones(x.shape[1:], dtype=x.dtype, device=x.device)
        case "full":
            return x * torch.full(x.shape, 0.5, dtype=x.dtype, device=x.device)
        case "new":
            return x + x.new_ones(x.shape[-1])
        case _:
            return x - x.new_zeros((1, *x.shape[1:]))


# reductions


@function(
    anything,
    dim=dims,
    name="mean sum amax amin logsumexp var std norm prod".split(),
    keepdim=(True, False),
)
def reduce(x: torch.Tensor, dim: int, name: str, keepdim: bool) -> torch.Tensor:
    options = {"correction": 0} if name in ("var", "std") else {}
    return getattr(torch, name)(x, dim=dim, keepdim=keepdim, **options)


@function(lambda x: len(x) > 2, name=("mean", "sum", "amax"), last=(True, False), keepdim=(True, False))
def reduce_two(x: torch.Tensor, name: str, last: bool, keepdim: bool) -> torch.Tensor:
    return getattr(torch, name)(x, dim=(-2, -1) if last else (1, 2), keepdim=keepdim)


@function(anything, dim=dims, name=("max", "min", "median"))
def extremum(x: torch.Tensor, dim: int, name: str) -> torch.Tensor:
    return getattr(torch, name)(x, dim).values


@function(anything, dim=dims)
def var_mean(x: torch.Tensor, dim: int) -> torch.Tensor:
    variance, mean = torch.var_mean(x, dim, correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-3).sqrt()


@function(anything, dim=dims, name=("cumsum", "cummax", "sort", "flip", "argmax"))
def ordered(x: torch.Tensor, dim: int, name: str) -> torch.Tensor:
    match name:
        case "cumsum":
            return x.cumsum(dim)
        case "cummax":
            return x.cummax(dim).values
        case "sort":
            return x.sort(dim).values
        case "flip":
            return x.flip(dim)
        case _:
            return x + x.argmax(dim, keepdim=True)


# joins and cuts


@function(
    anything,
    lambda x, y: len(x) == len(y) and x[:1] == y[:1] and x[2:] == y[2:],
    many=2,
)
def concat(*values: torch.Tensor) -> torch.Tensor:
    return torch.cat(values, dim=1)


@function(anything, lambda x, y: x[:-1] == y[:-1] and len(x) == len(y), many=1)
def concat_last(*values: torch.Tensor) -> torch.Tensor:
    return torch.cat(values, dim=-1)


@function(anything, alike, many=1, name=("sum", "mean", "amax", "flat"), dim=(1, -1, 0))
def stack(*values: torch.Tensor, name: str, dim: int) -> torch.Tensor:
    stacked = torch.stack(values, dim)
    if name == "flat":
        return stacked.flatten(1, 2) if dim == 1 else stacked.flatten(-2) if dim else stacked.sum(0)
    return getattr(stacked, name)(dim)


def _cuts(x: Shape) -> list[tuple[int, ...]]:
    """Ways to cut dimension 1 into two or three runs."""
    two = [(n, x[1] - n) for n in range(1, x[1])]
    return two + [(a, b, x[1] - a - b) for a, b in itertools.product((1, 2), repeat=2) if a + b < x[1]]


@function(lambda x: len(x) > 1 and x[1] > 1, sizes=_cuts, how=("reorder", "repeat", "drop", "narrow"))
def split(x: torch.Tensor, sizes: Sequence[int], how: str) -> torch.Tensor:
    pieces = x.split(sizes, dim=1)
    match how:
        case "reorder":
            return torch.cat((*pieces[1:], pieces[0].tanh()), 1)
        case "repeat":
            return torch.cat((pieces[0], *pieces), 1)
        case "drop":
            return pieces[-1]
        case _:
            return x.narrow(1, sizes[0], sizes[1])


@function(
    lambda x: len(x) > 1 and x[1] > 1,
    count=lambda x: divisors(x[1])[1:] + [n for n in (2, 3) if n < x[1]],
    how=("gate", "first", "last", "swap"),
    size=("int", "shape", "chunk", "tensor_split"),
)
def chunk(x: torch.Tensor, count: int, how: str, size: str) -> torch.Tensor:
    if size in ("chunk", "tensor_split"):
        pieces = getattr(x, size)(count, 1)
    else:
        length = (x.shape[1] if size == "shape" else int(x.shape[1])) // count
        pieces = x.split(max(1, length), 1)
    match how:
        case "first":
            return pieces[0]
        case "last":
            return pieces[-1]
        case "swap":
            return torch.cat(pieces[::-1], 1)
    left, right = pieces[:2] if len(pieces) > 1 else pieces * 2
    return left * torch.sigmoid(right) if left.shape == right.shape else left


@function(
    lambda x: len(x) > 1 and x[1] > 2,
    start=lambda x: range(x[1] - 1),
    stop=lambda x: [None, *range(-1, 2 - x[1], -1)],
    step=(1, 1, 1, 2),
)
def slice_channels(x: torch.Tensor, start: int, stop: int | None, step: int) -> torch.Tensor:
    found = x[:, start:stop:step]
    return found if found.shape[1] else x


@function(
    lambda x: len(x) > 1 and x[1] % 2 == 0,
    how=("left", "right", "swap", "part"),
    half=("whole numbers", "float", "literal"),
    literal=lambda x: [x[1] // 2],
)
def halves(x: torch.Tensor, how: str, half: str, literal: int) -> torch.Tensor:
    half = {"whole numbers": x.shape[1] // 2, "float": int(x.shape[1] / 2), "literal": literal}[half]
    match how:
        case "left":
            return x[:, :half]
        case "right":
            return x[:, half:]
        case "swap":
            return torch.cat((x[:, half:], x[:, :half]), 1)
        case _:
            return torch.cat((x[:, :half].tanh(), x[:, half:]), 1)


@function(lambda x: len(x) > 2 and min(x) > 0, dim=dims, how=("select", "unbind", "index", "mask", "gather"))
def pick_by_number(x: torch.Tensor, dim: int, how: str) -> torch.Tensor:
    match how:
        case "select":
            return x.select(dim, -1)
        case "unbind":
            return x.unbind(dim)[0]
        case "index":
            return x.index_select(dim, torch.arange(x.shape[dim] - 1, -1, -1, device=x.device))
        case "mask":
            return x[:, [0, -1]]
        case _:
            return x.gather(dim, torch.zeros_like(x, dtype=torch.int64))


@function(image, how=("focus", "stride", "crop"))
def space_slices(x: torch.Tensor, how: str) -> torch.Tensor:
    if x.shape[-1] % 2 or x.shape[-2] % 2:
        return x[..., :1]
    match how:
        case "focus":
            return torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
        case "stride":
            return x[:, :, ::2, ::2]
        case _:
            return x[:, :, : x.shape[2] // 2, 1:]


@function(anything, before=(0, 1, 2), after=(1, 0, 3), value=(0.0, 0.5))
def pad_channels(x: torch.Tensor, before: int, after: int, value: float) -> torch.Tensor:
    return F.pad(x, (*[0, 0] * (x.dim() - 2), before, after), value=value)


@function(lambda x: len(x) > 1 and x[1] < 13, extra=(1, 4), how=("literal", "double", "new", "expand", "int"))
def pad_by_zeros(x: torch.Tensor, extra: int, how: str) -> torch.Tensor:
    count = {"literal": extra, "int": int(x.shape[1])}.get(how, x.shape[1])
    match how:
        case "new":
            zeros = x.new_zeros((x.shape[0], count, *x.shape[2:]))
        case "expand":
            zeros = x[:, :1].mean(1, keepdim=True).expand(-1, count, *[-1] * (x.dim() - 2))
        case _:
            zeros = torch.zeros(x.shape[0], count, *x.shape[2:], dtype=x.dtype, device=x.device)
    return torch.cat((x, zeros), 1)


@function(anything, dim=dims, times=(2, 3), how=("repeat", "interleave", "expand", "tile"))
def again(x: torch.Tensor, dim: int, times: int, how: str) -> torch.Tensor:
    every = [1] * x.dim()
    every[dim] = times
    match how:
        case "repeat":
            return x.repeat(*every)
        case "interleave":
            return x.repeat_interleave(times, dim=dim)
        case "tile":
            return torch.tile(x, every)
    index = dim % x.dim()
    return x.unsqueeze(index + 1).expand(*x.shape[: index + 1], times, *x.shape[index + 1 :]).flatten(index, index + 1)


@function(anything, dim=dims, by=(1, -1, 2))
def roll(x: torch.Tensor, dim: int, by: int) -> torch.Tensor:
    return x.roll(by, dim)


# other forms


@function(
    lambda x: 2 < len(x) < 6, order=lambda x: [(0, *order) for order in itertools.permutations(range(1, len(x)))][1:]
)
def permute(x: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    return x.permute(*order)


@function(lambda x: len(x) > 2, pair=lambda x: list(itertools.combinations(dims(x), 2)))
def transpose(x: torch.Tensor, pair: Sequence[int]) -> torch.Tensor:
    return x.transpose(*pair)


@function(image)
def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


@function(
    lambda x: len(x) == 3 and round(x[1] ** 0.5) ** 2 == x[1], how=("shape", "unflatten", "minus one", "channels last")
)
def images(x: torch.Tensor, how: str) -> torch.Tensor:
    batch, count, width = x.shape
    side = int(count**0.5)
    match how:
        case "shape":
            return x.transpose(1, 2).reshape(batch, width, side, side)
        case "unflatten":
            return x.transpose(1, 2).unflatten(2, (side, -1))
        case "minus one":
            return x.permute(0, 2, 1).reshape(batch, -1, side, side)
        case _:
            return x.view(batch, side, side, width).permute(0, 3, 1, 2)


@function(lambda x: len(x) > 2, start=lambda x: range(1, len(x) - 1), how=("flatten", "reshape", "rest", "minus one"))
def flatten(x: torch.Tensor, start: int, how: str) -> torch.Tensor:
    match how:
        case "flatten":
            return x.flatten(start, start + 1)
        case "reshape":
            return x.reshape(*x.shape[:start], x.shape[start] * x.shape[start + 1], *x.shape[start + 2 :])
        case "rest":
            return x.flatten(start)
        case _:
            return x.reshape(*x.shape[:start], -1, *x.shape[start + 2 :])


@function(
    lambda x: 1 < len(x) < 5 and any(len(divisors(n)) > 2 for n in x[1:]),
    dim_and_groups=lambda x: [(d, g) for d in range(1, len(x)) for g in divisors(x[d])[1:-1]],
    how=("unflatten", "shape", "float", "int", "minus one", "inner", "inner shape"),
)
def unflatten(x: torch.Tensor, dim_and_groups: tuple[int, int], how: str) -> torch.Tensor:
    dim, groups = dim_and_groups
    before, after = x.shape[:dim], x.shape[dim + 1 :]
    match how:
        case "unflatten":
            return x.unflatten(dim, (groups, -1))
        case "shape":
            return x.reshape(*before, groups, x.shape[dim] // groups, *after)
        case "int":
            return x.reshape(*before, groups, int(x.shape[dim]) // groups, *after)
        case "float":
            return x.reshape(*before, groups, int(x.shape[dim] / groups), *after)
        case "minus one":
            return x.reshape(*before, -1, groups, *after)
        case "inner":
            return x.unflatten(dim, (-1, groups))
        case _:
            return x.reshape(*before, x.shape[dim] // groups, groups, *after)


@function(
    lambda x: len(x) == 4 and len(divisors(x[1])) > 2, groups=lambda x: divisors(x[1])[1:-1], by=("hand", "torch")
)
def shuffle(x: torch.Tensor, groups: int, by: str) -> torch.Tensor:
    if by == "torch":
        return F.channel_shuffle(x, groups)
    batch, width, height, length = x.size()
    return x.view(batch, groups, width // groups, height, length).transpose(1, 2).reshape(batch, -1, height, length)


@function(lambda x: len(x) == 4 and x[1] % 4 == 0, by=("torch", "hand"))
def pixel_shuffle(x: torch.Tensor, by: str) -> torch.Tensor:
    if by == "torch":
        return F.pixel_shuffle(x, 2)
    batch, width, height, length = x.shape
    x = x.reshape(batch, width // 4, 2, 2, height, length).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, width // 4, 2 * height, 2 * length)


@function(lambda x: len(x) == 4 and x[2] % 2 == x[3] % 2 == 0, by=("torch", "hand"))
def pixel_unshuffle(x: torch.Tensor, by: str) -> torch.Tensor:
    if by == "torch":
        return F.pixel_unshuffle(x, 2)
    batch, width, height, length = x.shape
    x = x.view(batch, width, height // 2, 2, length // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, 4 * width, height // 2, length // 2)


@function(lambda x: len(x) < 5, dim=lambda x: range(1, len(x) + 1))
def unsqueeze(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x.unsqueeze(dim)


@function(lambda x: len(x) > 2 and 1 in x[1:])
def squeeze(x: torch.Tensor) -> torch.Tensor:
    return x.squeeze(list(x.shape).index(1, 1))


@function(lambda x: len(x) == 4 and min(x[2:]) > 2)
def unfold(x: torch.Tensor) -> torch.Tensor:
    return F.unfold(x, 3, padding=1, stride=2)


# space


@function(image, name=("max_pool2d", "avg_pool2d", "lp_pool2d"), kernel=(2, 1))
def pool(x: torch.Tensor, name: str, kernel: int) -> torch.Tensor:
    kernel = min(kernel, *x.shape[2:])
    return F.lp_pool2d(x.relu() + 0.1, 2, kernel) if name == "lp_pool2d" else getattr(F, name)(x, kernel)


@function(image, name=("adaptive_avg_pool2d", "adaptive_max_pool2d"), size=(1, 2))
def adaptive_pool(x: torch.Tensor, name: str, size: int) -> torch.Tensor:
    return getattr(F, name)(x, size)


@function(image, mode=("nearest", "bilinear"), size=("scale", "literal"))
def interpolate(x: torch.Tensor, mode: str, size: str) -> torch.Tensor:
    if size == "scale":
        return F.interpolate(x, scale_factor=2, mode=mode)
    return F.interpolate(x, size=(3, x.shape[-1]), mode=mode)


@function(lambda x: len(x) == 4 and min(x[2:]) > 1, mode=("constant", "reflect", "replicate", "circular"))
def pad_space(x: torch.Tensor, mode: str) -> torch.Tensor:
    return F.pad(x, (1, 0, 1, 1), mode=mode)


# products


@function(sequence, lambda x, y: len(y) == 3 and x[2] == y[2])
def gram(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x @ y.transpose(1, 2) * x.shape[-1] ** -0.5


@function(sequence, lambda x, y: len(y) == 3 and x[1] == y[1], how=("matmul", "einsum", "bmm"))
def outer(x: torch.Tensor, y: torch.Tensor, how: str) -> torch.Tensor:
    match how:
        case "matmul":
            return x.transpose(1, 2) @ y / x.shape[1]
        case "bmm":
            return torch.bmm(x.transpose(1, 2), y) / x.size(1) ** 0.5
        case _:
            return torch.einsum("bnc,bnd->bcd", x, y)


@function(sequence, lambda x, y: len(y) == 3 and x[2] == y[1])
def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, -1) @ y


@function(
    sequence,
    lambda x, y: len(y) == 3 and x[2] == y[2],
    heads=lambda x: divisors(x[2]),
    how=("shape", "unflatten", "int", "float"),
)
def attend(x: torch.Tensor, y: torch.Tensor, heads: int, how: str) -> torch.Tensor:
    def parts(z: torch.Tensor) -> torch.Tensor:
        match how:
            case "shape":
                return z.reshape(z.shape[0], z.shape[1], heads, z.shape[2] // heads).transpose(1, 2)
            case "unflatten":
                return z.unflatten(-1, (heads, -1)).transpose(1, 2)
            case "float":
                return z.view(*z.shape[:2], heads, int(z.size(2) / heads)).transpose(1, 2)
            case _:
                return z.view(z.shape[0], z.shape[1], heads, int(z.shape[2]) // heads).transpose(1, 2)

    found = F.scaled_dot_product_attention(parts(x.contiguous()), parts(y.contiguous()), parts(y.contiguous()))
    return found.transpose(1, 2).flatten(2)


@function(lambda x: channels(x) and x[1] % 2 == 0)
def glu(x: torch.Tensor) -> torch.Tensor:
    return F.glu(x, 1)
