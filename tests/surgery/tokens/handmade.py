"""Small transformers as people write them by hand: every form of attention, and every way to pool tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

WIDTH, HEADS = 20, 4


class HandAttention(nn.Module):
    """Attention in one of many forms.

    Args:
        form: "4-D", "3-D", "3-D, heads first", "talking", "talking with bias", "one head", "einsum", "linear",
            "scattered", "squeeze" or "shift".
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.before = nn.Linear(HEADS, HEADS, bias="bias" in form)
        self.behind = nn.Linear(HEADS, HEADS, bias="bias" in form)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images, tokens, _ = x.shape
        heads = 1 if self.form == "one head" else HEADS
        q, k, v = self.qkv(x).view(images, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "squeeze":
            v = v * x.mean(1).sigmoid().view(images, heads, 1, -1)
        if self.form == "shift":
            v = v + v.roll(1, 2)
        if self.form == "einsum":
            weights = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
            out = torch.einsum("bhnm,bhmd->bhnd", weights, v)
        elif self.form == "linear":
            out = q.softmax(-1) @ (k.softmax(dim=-2).transpose(-1, -2) @ v)
        elif self.form in ("3-D", "one head"):
            q, k, v = (each.reshape(images * heads, tokens, -1) for each in (q, k, v))
            weights = nn.Softmax(dim=2)(torch.bmm(q, k.transpose(1, 2)) / 2)
            out = torch.bmm(self.drop(weights), v).view(images, heads, tokens, -1)
        elif self.form == "3-D, heads first":
            q, k, v = (each.transpose(0, 1).reshape(images * heads, tokens, -1) for each in (q, k, v))
            out = (torch.softmax(q @ k.transpose(1, 2), -1) @ v).view(heads, images, tokens, -1).transpose(0, 1)
        else:
            logits = q @ k.transpose(-1, -2) / 2
            if "talking" in self.form:
                logits = self.before(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            weights = functional.softmax(logits, dim=-1)
            if self.form == "scattered":
                weights = weights.sort(-1).values
            if "talking" in self.form:
                weights = self.behind(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            out = self.drop(weights) @ v
        joined: torch.Tensor = self.out(out.transpose(1, 2).reshape(images, tokens, WIDTH))
        return joined


class HandBlock(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), HandAttention(form)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class MaskedBlock(nn.Module):
    """A block as open_clip's: it takes a mask, in the form that `nn.MultiheadAttention` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=attn_mask)[0]
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class HandViT(nn.Module):
    """A small ViT.

    Args:
        form: of the attention; "attn_mask" has blocks like open_clip's.
        pool: by name, see `POOLS`.
        depth: number of blocks.
        reentrant: kind of gradient checkpointing; None is none.
    """

    def __init__(self, form: str = "4-D", pool: str = "class", depth: int = 4, reentrant: bool | None = None) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, WIDTH, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.blocks = nn.ModuleList(MaskedBlock() if form == "attn_mask" else HandBlock(form) for _ in range(depth))
        self.norm, self.score, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 5)
        self.probe, self.asks = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), nn.Linear(WIDTH, WIDTH)
        self.pool, self.reentrant = pool, reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        logits: torch.Tensor = self.head(POOLS[self.pool](self, self.norm(x)))
        return logits


def _queried(model: HandViT, x: torch.Tensor) -> torch.Tensor:
    q = model.asks(x[:, :1])
    return ((q @ x.transpose(1, 2)).softmax(-1) @ x)[:, 0]


POOLS: dict[str, Callable[[HandViT, torch.Tensor], torch.Tensor]] = {
    "class": lambda model, x: x[:, 0],
    "mean": lambda model, x: x.mean(1),
    "mean(dim=-2)": lambda model, x: x[:, 1:].mean(dim=-2),
    "mean, kept": lambda model, x: torch.mean(x, (1,), True)[:, 0],
    "transposed mean": lambda model, x: x.transpose(1, 2).mean(-1),
    "adaptive mean": lambda model, x: nn.AdaptiveAvgPool1d(1)(x.transpose(1, 2)).flatten(1),
    "adaptive max": lambda model, x: nn.AdaptiveMaxPool1d(1)(x[:, 1:].transpose(1, 2)).flatten(1),
    "sum": lambda model, x: x[:, 1:].sum(1),
    "sum over count": lambda model, x: x.sum(dim=1) / x.shape[1],
    "max": lambda model, x: x[:, 1:].max(1).values,
    "amax": lambda model, x: torch.amax(x, dim=-2),
    "transposed min": lambda model, x: x.transpose(1, 2).amin(2),
    "softmax": lambda model, x: (model.score(x).softmax(dim=1) * x).sum(1),
    "flat softmax": lambda model, x: torch.einsum("bn,bnc->bc", model.score(x)[..., 0].softmax(1), x),
    "gated": lambda model, x: (model.score(x).sigmoid() * x).sum(1) / model.score(x).sigmoid().sum(1),
    "logsumexp": lambda model, x: x.logsumexp(1),
    "attention": lambda model, x: model.probe(x[:, :1], x, x, need_weights=False)[0][:, 0],
    "query": _queried,
    "median": lambda model, x: x.median(1).values,
    "deviation": lambda model, x: x.std(1),
    "largest three": lambda model, x: x.topk(3, dim=1).values.mean(1),
    "first patches": lambda model, x: x[:, 1:].unflatten(1, (4, -1))[:, :, 0].mean(1),
}
"""How tokens become one vector."""
REFUSED_POOLS = {"sum over count", "median", "deviation", "largest three", "first patches"}
"""Those in which masked tokens cannot be left out."""
FORMS = ("4-D", "3-D", "one head", "talking", "talking with bias", "einsum", "linear", "squeeze", "attn_mask")
"""Attentions that can be masked."""
REFUSED_FORMS = ("3-D, heads first", "scattered", "shift")
"""Those that cannot."""
