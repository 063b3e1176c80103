"""Small networks in common coding styles for tests of operator rules; each contains a difficulty for pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["AWKWARD"]


class Unet(nn.Module):
    """Skips that join by concatenation, and transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()

        def block(inward: int, outward: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(inward, outward, 3, 1, 1), nn.BatchNorm2d(outward), nn.ReLU(True))

        self.first, self.second, self.middle = block(3, 8), block(8, 16), block(16, 32)
        self.up1, self.down1 = nn.ConvTranspose2d(32, 16, 2, 2), block(32, 16)
        self.up2, self.down2 = nn.ConvTranspose2d(16, 8, 2, 2), block(16, 8)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        a = self.first(x)
        b = self.second(nn.functional.max_pool2d(a, 2))
        middle = self.middle(nn.functional.max_pool2d(b, 2))
        y = self.down1(torch.cat([self.up1(middle), b], 1))
        return self.out(self.down2(torch.cat([self.up2(y), a], 1)))


class Multihead(nn.Module):
    """A transformer block around `nn.MultiheadAttention`."""

    def __init__(self, need_weights: bool, batch_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=batch_first)
        self.need_weights = need_weights
        self.norm = nn.LayerNorm(32)
        self.up, self.down, self.out = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        x = self.embed(x.flatten(2).transpose(1, 2))
        x = self.norm(x + self.attention(x, x, x, need_weights=self.need_weights)[0])
        return self.out((x + self.down(nn.functional.gelu(self.up(x)))).mean(1))


class SqueezeExcite(nn.Module):
    """Gates, group norm, layer scale and a value that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(3, 16, 3), nn.Linear(16, 4), nn.Linear(4, 16)
        self.layer_scale, self.norm, self.out = (
            nn.Parameter(torch.ones(16, 1, 1)),
            nn.GroupNorm(4, 16),
            nn.Conv2d(16, 7, 1),
        )

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        y = self.conv(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))
        y = self.norm(y * gate[:, :, None, None]) * self.layer_scale
        return self.out(torch.relu(y) + y)


class Shuffles(nn.Module):
    """Channel shuffles by module and by hand, grouped and transposed convolutions, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grouped = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 48, 3, groups=3)
        self.shuffle, self.again = nn.ChannelShuffle(3), nn.Conv2d(48, 24, 3, groups=3)
        self.transposed = nn.ConvTranspose2d(24, 24, 3, groups=4)
        self.widen, self.pixels, self.out = nn.Conv2d(24, 32, 1), nn.PixelShuffle(2), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        y = torch.relu(self.grouped(self.conv(x)))
        batch, channels, height, width = y.shape
        y = y.view(batch, 3, channels // 3, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.out(self.pixels(self.widen(self.transposed(self.again(self.shuffle(y))))))


class C2f(nn.Module):
    """The block of a detector, by chunk or by split, and a gated linear unit."""

    def __init__(self, as_chunks: bool) -> None:
        super().__init__()
        self.as_chunks, self.width = as_chunks, 8
        self.stem, self.split = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 16, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 1, 1)) for _ in range(2)
        )
        self.join, self.gated, self.out = nn.Conv2d(32, 10, 1), nn.Conv2d(10, 16, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        y = self.split(self.stem(x))
        parts = list(y.chunk(2, 1)) if self.as_chunks else list(y.split((self.width, self.width), 1))
        parts.extend(block(parts[-1]) for block in self.blocks)
        return self.out(nn.functional.glu(self.gated(self.join(torch.cat(parts, 1))), 1))


class FlattenedTwice(nn.Module):
    """Flattened space, tied weights, and a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.flat, self.tied, self.norm = nn.Linear(8 * 16, 20), nn.Linear(20, 20), nn.RMSNorm(20)
        self.gates, self.out = nn.Linear(20, 40), nn.Linear(20, 4)
        self.also_tied = nn.Linear(20, 20)
        self.also_tied.weight = self.tied.weight

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        y = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.first(x))))))
        y = torch.relu(self.flat(nn.functional.adaptive_avg_pool2d(y, 4).flatten(1)))
        y = self.norm(self.also_tied(torch.relu(self.tied(y))))
        left, right = self.gates(y).chunk(2, -1)
        return self.out(left * torch.sigmoid(right) + torch.einsum("bi,ji->bj", y, self.tied.weight))


class HandWrittenAttention(nn.Module):
    """Attention by matrix products, with normed queries."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.heads, self.scale = nn.Conv2d(3, 32, 4, 4), 4, 8**-0.5
        self.q, self.kv, self.proj = nn.Linear(32, 32, bias=False), nn.Linear(32, 64), nn.Linear(32, 32)
        self.position, self.norm, self.out = nn.Parameter(torch.randn(1, 64, 32)), nn.LayerNorm(8), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        batch, tokens, _ = x.shape
        q = self.norm(self.q(x).reshape(batch, tokens, self.heads, -1).transpose(1, 2))
        k, v = self.kv(x).reshape(batch, tokens, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1) @ v
        return self.out((x + self.proj(y.transpose(1, 2).flatten(2))).mean(1))


class GroupedQueries(nn.Module):
    """Fewer keys than queries."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.q, self.k, self.v = nn.Linear(3, 32), nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.proj, self.head_dim, self.out = nn.Linear(32, 32), 8, nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        x = self.embed(x.flatten(2).transpose(1, 2)[:, :64])
        q, k, v = (f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out((x + self.proj(y.transpose(1, 2).flatten(2))).mean(1))


class Normalised(nn.Module):
    """Parametrized weights, and reductions over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3))
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 1))
        self.instance, self.out = nn.InstanceNorm2d(16, affine=True), nn.Conv2d(16, 3, 1)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        y = self.instance(self.second(torch.relu(self.first(x))))
        weights = torch.softmax(y.mean((2, 3)), 1)[:, :, None, None]
        spread = y.var(1, keepdim=True) + y.amax(1, keepdim=True) + nn.functional.normalize(y, dim=1)
        return {"out": self.out(y * weights + spread)}


class Recurrent(nn.Module):
    """Pixels as a sequence, by a recurrent layer of two levels and by a cell."""

    def __init__(self, layer: Callable[..., nn.Module], cell: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(3, 12), layer(12, 10, 2, batch_first=True, **options)
        width = (options.get("proj_size") or 10) * (2 if options.get("bidirectional") else 1)
        self.cell, self.out = cell(width, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        y, _ = self.layer(torch.relu(self.embed(x.mean(3).transpose(1, 2)[:, :6])))
        state = None
        for step in range(y.shape[1]):
            state = self.cell(y[:, step], state)
        return self.out(state[0] if isinstance(state, tuple) else state)


class EncoderDecoder(nn.Module):
    """A complete `nn.Transformer` with a learned query."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.query = nn.Linear(3, 16), nn.Parameter(torch.randn(1, 5, 16))
        self.body, self.out = nn.Transformer(16, 4, 1, 1, 24, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        tokens = self.embed(x.mean(3).transpose(1, 2))
        return {"boxes": [self.out(self.body(tokens, self.query.expand(x.shape[0], -1, -1)))]}


class Pyramid(nn.Module):
    """Spatial pyramid pooling, a spectral norm, and a convolution by hand on a parameter of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.pool = spectral_norm(nn.Conv2d(3, 12, 1)), nn.MaxPool2d(5, 1, 2)
        self.kernel, self.shift = nn.Parameter(torch.randn(10, 48, 1, 1)), nn.Parameter(torch.randn(10))
        self.gain, self.table = nn.Buffer(torch.ones(1, 10, 1, 1)), nn.Linear(10, 4, bias=False)
        self.final: Callable[[torch.Tensor], torch.Tensor] = lambda y: torch.einsum("bchw,kc->bk", y, self.table.weight)

    def forward(self, x: torch.Tensor) -> Any:
        """Images, float [batch, 3, height, width]."""
        parts = [self.down(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        y = nn.functional.conv2d(torch.cat(parts, 1), self.kernel, self.shift) * self.gain
        return self.final(nn.functional.silu(y))


AWKWARD: Mapping[str, Callable[[], nn.Module]] = {
    "unet": Unet,
    "multihead": lambda: Multihead(False, True),
    "multihead with weights": lambda: Multihead(True, True),
    "multihead, sequence first": lambda: Multihead(True, False),
    "squeeze and excite": SqueezeExcite,
    "shuffles": Shuffles,
    "c2f by chunk": lambda: C2f(True),
    "c2f by split": lambda: C2f(False),
    "flatten, tied, used twice": FlattenedTwice,
    "attention by hand": HandWrittenAttention,
    "grouped queries": GroupedQueries,
    "weight norm, reductions": Normalised,
    "lstm of both directions": lambda: Recurrent(nn.LSTM, nn.LSTMCell, bidirectional=True),
    "lstm, projected": lambda: Recurrent(nn.LSTM, nn.LSTMCell, proj_size=6),
    "gru": lambda: Recurrent(nn.GRU, nn.GRUCell),
    "rnn without bias": lambda: Recurrent(nn.RNN, nn.RNNCell, bias=False),
    "encoder and decoder": EncoderDecoder,
    "pyramid": Pyramid,
}
"""Networks by their difficulty; each takes images of 32 by 32 pixels."""
