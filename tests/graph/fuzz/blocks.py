"""Steps that are whole blocks, written as people write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from tests.graph.fuzz.kinds import Pick, Shape, divisors, layer
from tests.graph.fuzz.layers import WIDTHS, image, sequence


@layer(image)
class SqueezeExcite(nn.Module):
    """Channels weighted by what their means say."""

    def __init__(self, x: Shape, width: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        make = nn.Linear if linear else lambda before, after: nn.Conv2d(before, after, 1)
        self.squeeze, self.excite = make(x[1], width), make(width, x[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.linear:
            batch, channels, _, _ = x.shape
            gate = F.adaptive_avg_pool2d(x, 1).view(batch, channels)
            return x * self.excite(F.relu(self.squeeze(gate))).sigmoid().view(batch, channels, 1, 1)
        return x * self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"width": pick(WIDTHS), "linear": pick((False, True))}


@layer(image)
class SpatialGate(nn.Module):
    """Positions in space weighted by mean and maximum over channels."""

    def __init__(self, x: Shape, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(2, 1, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        largest = x.amax(1, keepdim=True) if self.how == "amax" else x.max(1, keepdim=True)[0]
        return x * torch.sigmoid(self.conv(torch.cat((x.mean(1, keepdim=True), largest), 1)))

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"how": pick(("amax", "max"))}


@layer(image)
class ChannelConv(nn.Module):
    """Channels weighted by a convolution along them (ECA)."""

    def __init__(self, x: Shape) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * gate.sigmoid().view(x.shape[0], -1, 1, 1)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {}


@layer(image)
class InvertedResidual(nn.Module):
    """Wide, depthwise, narrow, and a skip where it fits."""

    def __init__(self, x: Shape, hidden: int, width: int) -> None:
        super().__init__()
        self.use_res_connect = width == x[1]
        self.expand, self.depthwise = nn.Conv2d(x[1], hidden, 1), nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
        self.norm, self.project = nn.BatchNorm2d(hidden), nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(F.relu6(self.norm(self.depthwise(F.relu6(self.expand(x))))))
        return x + y if self.use_res_connect else y

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"hidden": pick(WIDTHS), "width": pick((x[1], *WIDTHS))}


@layer(image)
class CrossStage(nn.Module):
    """Pieces of one convolution, some of which go on through blocks before all are joined (C2f)."""

    def __init__(self, x: Shape, hidden: int, blocks: int, how: str) -> None:
        super().__init__()
        self.how, self.hidden = how, hidden
        self.first = nn.Conv2d(x[1], 2 * hidden, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, 1, 1) for _ in range(blocks))
        self.join = nn.Conv2d((2 + blocks) * hidden, x[1], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        match self.how:
            case "chunk":
                parts = list(y.chunk(2, 1))
            case "split":
                parts = list(y.split((self.hidden, self.hidden), 1))
            case "size":
                parts = list(torch.split(y, self.hidden, dim=1))
            case "slices":
                parts = [y[:, : self.hidden], y[:, self.hidden :]]
        for block in self.blocks:
            parts.append(parts[-1] + F.silu(block(parts[-1])))
        return self.join(torch.cat(parts, 1))

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"hidden": pick(WIDTHS), "blocks": pick((1, 2)), "how": pick(("chunk", "split", "size", "slices"))}


@layer(image)
class Ghost(nn.Module):
    """A convolution and cheap copies of it, of which as many are taken as are wanted."""

    def __init__(self, x: Shape, width: int) -> None:
        super().__init__()
        self.width = width
        half = -(-width // 2)
        self.primary, self.cheap = nn.Conv2d(x[1], half, 1), nn.Conv2d(half, half, 3, 1, 1, groups=half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], dim=1)[:, : self.width, :, :]

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"width": pick(WIDTHS)}


@layer(image)
class SelectiveKernel(nn.Module):
    """Two convolutions, mixed per channel by a softmax over the two."""

    def __init__(self, x: Shape, width: int, hidden: int, stacked: bool) -> None:
        super().__init__()
        self.stacked, self.width = stacked, width
        self.small, self.large = nn.Conv2d(x[1], width, 1), nn.Conv2d(x[1], width, 3, 1, 1)
        self.squeeze, self.excite = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, 2 * width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stacked:
            both = torch.stack((self.small(x), self.large(x)), 1)
        else:
            both = torch.cat((self.small(x), self.large(x)), 1).view(x.shape[0], 2, self.width, *x.shape[2:])
        gates = self.excite(F.relu(self.squeeze(both.sum(1).mean((2, 3), keepdim=True))))
        gates = gates.reshape(x.shape[0], 2, -1, 1, 1).softmax(1)
        return (both * gates).sum(1)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"width": pick(WIDTHS), "hidden": pick(WIDTHS), "stacked": pick((True, False))}


@layer(image)
class SplitAttention(nn.Module):
    """A grouped convolution of radix 2 whose parts are weighted per cardinal group (ResNeSt)."""

    def __init__(self, x: Shape, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.conv = nn.Conv2d(x[1], 2 * width, 3, 1, 1, groups=groups)
        self.squeeze, self.excite = nn.Conv2d(width, 4, 1), nn.Conv2d(4, 2 * width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels = x.shape[0], self.conv(x).shape[1]
        parts = self.conv(x).reshape(batch, 2, channels // 2, *x.shape[2:])
        gates = self.excite(F.relu(self.squeeze(parts.sum(1).mean((2, 3), keepdim=True))))
        gates = gates.view(batch, self.groups, 2, -1).transpose(1, 2).softmax(1).reshape(batch, 2, -1, 1, 1)
        return (parts * gates).sum(1)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        groups = pick([each for each in (1, 2) if x[1] % each == 0])
        return {"width": pick([width for width in WIDTHS if width % groups == 0]), "groups": groups}


@layer(image)
class ResponseNorm(nn.Module):
    """Channels over the mean of their norms (ConvNeXt V2)."""

    def __init__(self, x: Shape) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(1, x[1], 1, 1)), nn.Parameter(torch.zeros(1, x[1], 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
        return self.weight * (x * (norm / (norm.mean(1, keepdim=True) + 1e-6))) + self.bias + x

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {}


@layer(image)
class Involution(nn.Module):
    """Kernels made of each position, shared by the channels of a group."""

    def __init__(self, x: Shape, groups: int) -> None:
        super().__init__()
        self.groups, self.kernel_size = groups, 3
        self.kernels = nn.Conv2d(x[1], 9 * groups, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        kernels = self.kernels(x).view(batch, self.groups, 1, self.kernel_size**2, height, width)
        windows = F.unfold(x, 3, padding=1)
        windows = windows.view(batch, self.groups, channels // self.groups, self.kernel_size**2, height, width)
        return (kernels * windows).sum(3).view(batch, channels, height, width)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"groups": pick(divisors(x[1]))}


@layer(image)
class Depth(nn.Module):
    """A ConvNeXt block: depthwise, norm and two linear layers with channels last, a scale, a skip."""

    def __init__(self, x: Shape, hidden: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(x[1], x[1], 3, 1, 1, groups=x[1]), nn.LayerNorm(x[1])
        self.up, self.down = nn.Linear(x[1], hidden), nn.Linear(hidden, x[1])
        self.gamma = nn.Parameter(torch.ones(x[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.gamma * self.down(F.gelu(self.up(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"hidden": pick(WIDTHS)}


@layer(sequence)
class Mixer(nn.Module):
    """Two layers over tokens, two over channels."""

    def __init__(self, x: Shape, hidden: int) -> None:
        super().__init__()
        self.norm, self.again = nn.LayerNorm(x[2]), nn.LayerNorm(x[2])
        self.token_up, self.token_down = nn.Linear(x[1], hidden), nn.Linear(hidden, x[1])
        self.up, self.down = nn.Linear(x[2], hidden), nn.Linear(hidden, x[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.token_down(F.gelu(self.token_up(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.again(x))))

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"hidden": pick(WIDTHS)}


@layer(sequence)
class Gated(nn.Module):
    """A gated pair of linear layers, packed or apart."""

    def __init__(self, x: Shape, hidden: int, packed: bool) -> None:
        super().__init__()
        self.packed, self.hidden_features = packed, hidden
        self.up = nn.Linear(x[2], 2 * hidden)
        self.gate = nn.Identity() if packed else nn.Linear(x[2], 2 * hidden)
        self.down = nn.Linear(hidden if packed else 2 * hidden, x[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.packed:
            value, gate = self.up(x).split(self.hidden_features, -1)
            return x + self.down(value * F.silu(gate))
        return x + self.down(self.up(x) * F.silu(self.gate(x)))

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"hidden": pick(WIDTHS), "packed": pick((True, False))}


@layer(sequence)
class SelfAttention(nn.Module):
    """Multi-head attention with packed queries, keys and values, as timm and others write it."""

    def __init__(self, x: Shape, heads: int, how: str, fused: bool, bias: str) -> None:
        super().__init__()
        width = x[2]
        self.num_heads, self.head_dim, self.how, self.fused = heads, width // heads, how, fused
        self.scale = self.head_dim**-0.5
        self.literal = {"heads": heads, "head_dim": self.head_dim}
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        shape = {"none": None, "tokens": (x[1], x[1]), "heads": (heads, x[1], x[1])}[bias]
        self.bias = None if shape is None else nn.Parameter(torch.rand(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, width = x.shape
        q, k, v = self._parts(self.qkv(x), batch, count, width)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        else:
            weights = (q * self.scale) @ k.transpose(-2, -1)
            y = (weights if self.bias is None else weights + self.bias).softmax(-1) @ v
        y = y.transpose(1, 2)
        return self.proj(y.flatten(2) if self.how in ("minus one", "chunk") else y.reshape(batch, count, width))

    def _parts(self, y: torch.Tensor, batch: int, count: int, width: int) -> Any:
        match self.how:
            case "heads":
                return y.reshape(batch, count, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
            case "head_dim":
                return y.reshape(batch, count, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            case "minus one":
                return y.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            case "chunk":
                return [z.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for z in y.chunk(3, -1)]
            case "interleaved":
                z = y.view(batch, count, self.num_heads, 3 * self.head_dim).transpose(1, 2)
                return z.split(self.head_dim, -1)
        y = y.view(batch, count, 3, self.literal["heads"], self.literal["head_dim"])
        return y.permute(2, 0, 3, 1, 4)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {
            "heads": pick(divisors(x[2])),
            "how": pick(("heads", "head_dim", "minus one", "chunk", "interleaved", "literal")),
            "fused": pick((True, False)),
            "bias": pick(("none", "tokens", "heads")),
        }


@layer(sequence)
class GroupedQueries(nn.Module):
    """Several queries for each key and value."""

    def __init__(self, x: Shape, heads: int, repeats: int, head_dim: int, how: str) -> None:
        super().__init__()
        self.heads, self.repeats, self.head_dim, self.how = heads, repeats, head_dim, how
        self.q = nn.Linear(x[2], heads * repeats * head_dim)
        self.k, self.v = nn.Linear(x[2], heads * head_dim), nn.Linear(x[2], heads * head_dim)
        self.out = nn.Linear(heads * repeats * head_dim, x[2], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, _ = x.shape
        q, k, v = (made(x).view(batch, count, -1, self.head_dim).transpose(1, 2) for made in (self.q, self.k, self.v))
        match self.how:
            case "torch":
                y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            case "interleave":
                k, v = (z.repeat_interleave(self.repeats, dim=1) for z in (k, v))
                y = F.scaled_dot_product_attention(q, k, v)
            case "expand":
                k, v = (z[:, :, None].expand(-1, -1, self.repeats, -1, -1).flatten(1, 2) for z in (k, v))
                y = ((q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).flatten(2))

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {
            "heads": pick((2, 1, 3)),
            "repeats": pick((2, 1, 3)),
            "head_dim": pick((2, 3, 4)),
            "how": pick(("torch", "interleave", "expand")),
        }


@layer(sequence, lambda x, y: len(y) == 3)
class CrossAttention(nn.Module):
    """Torch's own attention from one value to another."""

    def __init__(self, x: Shape, y: Shape, heads: int, batch_first: bool, weights: bool) -> None:
        super().__init__()
        self.batch_first, self.weights = batch_first, weights
        self.attention = nn.MultiheadAttention(x[2], heads, kdim=y[2], vdim=y[2], batch_first=batch_first)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.batch_first:
            return self.attention(x, y, y, need_weights=self.weights)[0]
        x, y = x.transpose(0, 1), y.transpose(0, 1)
        return self.attention(x, y, y, need_weights=self.weights)[0].transpose(0, 1)

    @staticmethod
    def draw(pick: Pick, x: Shape, y: Shape) -> dict[str, Any]:
        return {"heads": pick(divisors(x[2])), "batch_first": pick((True, False)), "weights": pick((False, True))}


@layer(sequence)
class ChannelAttention(nn.Module):
    """Attention between channels of a head, with normalised queries and keys and a temperature (XCiT)."""

    def __init__(self, x: Shape, heads: int, how: str) -> None:
        super().__init__()
        self.num_heads, self.how = heads, how
        self.qkv, self.proj = nn.Linear(x[2], 3 * x[2], bias=False), nn.Linear(x[2], x[2])
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.num_heads, -1).permute(2, 0, 3, 4, 1).unbind(0)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        if self.how == "einsum":
            weights = (torch.einsum("bhcn,bhdn->bhcd", q, k) * self.temperature).softmax(-1)
            y = torch.einsum("bhcd,bhdn->bhcn", weights, v)
        else:
            y = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1) @ v
        return x + self.proj(y.permute(0, 3, 1, 2).reshape(batch, count, -1 if self.how == "einsum" else width))

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"heads": pick(divisors(x[2])), "how": pick(("matmul", "einsum"))}


@layer(sequence)
class LinearAttention(nn.Module):
    """Attention by a summary of keys and values, its queries and keys made positive."""

    def __init__(self, x: Shape, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(x[2], heads * head_dim), nn.Linear(x[2], heads * head_dim)
        self.v, self.proj = nn.Linear(x[2], heads * head_dim), nn.Linear(heads * head_dim, x[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (made(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for made in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        summary = torch.einsum("bhnd,bhne->bhde", k, v)
        scale = 1 / (torch.einsum("bhnd,bhd->bhn", q, k.sum(2)) + 1e-6)
        y = torch.einsum("bhnd,bhde,bhn->bhne", q, summary, scale)
        return self.proj(y.transpose(1, 2).flatten(2))

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"heads": pick((2, 1, 3)), "head_dim": pick((3, 2, 4))}


@layer(lambda x: len(x) == 4 and x[2] % 2 == x[3] % 2 == 0)
class Windows(nn.Module):
    """Attention within windows of images, shifted or not, as Swin has it."""

    def __init__(self, x: Shape, heads: int, shifted: bool) -> None:
        super().__init__()
        self.num_heads, self.shifted, self.window_size = heads, shifted, 2
        self.qkv, self.proj = nn.Linear(x[1], 3 * x[1]), nn.Linear(x[1], x[1])
        self.table = nn.Parameter(torch.rand(9, heads))
        self.register_buffer("index", torch.arange(16).view(4, 4) % 9, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        x = x.roll((-1, -1), (1, 2)) if self.shifted else x
        batch, height, width, channels = x.shape
        side = self.window_size
        y = x.view(batch, height // side, side, width // side, side, channels)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)
        qkv = self.qkv(y).reshape(y.shape[0], y.shape[1], 3, self.num_heads, channels // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(4, 4, -1).permute(2, 0, 1)
        y = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias[None]).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(-1, side * side, channels))
        y = y.view(batch, height // side, width // side, side, side, channels)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)
        y = y.roll((1, 1), (1, 2)) if self.shifted else y
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def draw(pick: Pick, x: Shape) -> dict[str, Any]:
        return {"heads": pick(divisors(x[1])), "shifted": pick((False, True))}
