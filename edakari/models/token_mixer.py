"""The lightweight Transformer path of HR-NAS (Ding et al., 2021): tokens are whole feature maps of 8x8 positions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["TokenMixer"]

SIDE = 8
"""Height and width of the map that each token holds."""
WIDTH = SIDE * SIDE
DROPOUT = 0.1


class TokenMixer(nn.Module):
    """Projects a feature map to n tokens, lets them attend to each other, and projects them back.

    The scales of `norm` are the gates of the tokens. The block adds the result to its shortcut.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        tokens: number of tokens n.
        stride: 1 keeps the resolution, 2 halves it.
    """

    gate_norms = ("norm",)
    """The batch norm whose scales gate the tokens; see `methods.tickets.gates`."""

    coordinates: torch.Tensor

    def __init__(self, inputs: int, outputs: int, tokens: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.squeeze = nn.Conv2d(inputs + 2, tokens, 1, bias=False)
        self.norm = nn.BatchNorm2d(tokens)
        self.encoder, self.decoder = _Layer(), _Layer()
        self.queries = nn.Parameter(torch.randn(tokens, WIDTH))
        self.expand = nn.Conv2d(tokens, outputs, 1, bias=False)
        self.out_norm = nn.BatchNorm2d(outputs)
        self.register_buffer("coordinates", _coordinates(), persistent=False)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return features [N, outputs, H / stride, W / stride]."""
        height, width = x_NCHW.shape[2:]
        small = functional.interpolate(x_NCHW, (SIDE, SIDE), mode="bilinear", align_corners=False)
        where = self.coordinates.expand(len(small), -1, -1, -1)
        tokens_NTD = self.norm(self.squeeze(torch.cat([small, where], 1))).flatten(2)
        memory_NTD = self.encoder(tokens_NTD, tokens_NTD)
        # as in HR-NAS, unlike in DETR: the residual is the memory, and queries do not attend to each other
        mixed_NTD = self.decoder(memory_NTD, self.queries.expand(len(small), -1, -1))
        found: torch.Tensor = self.out_norm(self.expand(mixed_NTD.unflatten(2, (SIDE, SIDE))))
        size = (-(-height // self.stride), -(-width // self.stride))
        return functional.interpolate(found, size, mode="bilinear", align_corners=False)


class _Layer(nn.Module):
    """Attention and a feed-forward part, each added to the memory and then normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = _Attention()
        self.feed = nn.Sequential(
            nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(WIDTH, WIDTH, bias=False)
        )
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, memory_NTD: torch.Tensor, queries_NTD: torch.Tensor) -> torch.Tensor:
        """Return the memory with what the queries find in it, [N, T, D]."""
        x_NTD = self.norm1(memory_NTD + self.drop(self.attention(queries_NTD, memory_NTD)))
        normed: torch.Tensor = self.norm2(x_NTD + self.drop(self.feed(x_NTD)))
        return normed


class _Attention(nn.Module):
    """Attention of one head, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, queries_NTD: torch.Tensor, memory_NTD: torch.Tensor) -> torch.Tensor:
        """Return what the queries find in the memory, [N, T, D]."""
        projected = self.query(queries_NTD), self.key(memory_NTD), self.value(memory_NTD)
        found: torch.Tensor = self.out(functional.scaled_dot_product_attention(*projected))
        return found


def _coordinates() -> torch.Tensor:
    """Row and column indices of an 8x8 map with zero mean and unit standard deviation, [1, 2, 8, 8]."""
    index = torch.arange(SIDE, dtype=torch.get_default_dtype())
    index = (index - index.mean()) / index.std(correction=0)
    return torch.stack(torch.meshgrid(index, index, indexing="ij"))[None]
