"""A multi-head attention whose heads and head dimension need not multiply to the embedding's width."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from edakari.core.layout import Layout, Product, extent
from edakari.graph.module_attributes import Widths

__all__ = ["SlimMultiheadAttention", "is_slim", "slim"]


class SlimMultiheadAttention(nn.Module):
    """Replaces a cut `nn.MultiheadAttention`, with the same parameters, names and call.

    `nn.MultiheadAttention` computes the head dimension as the embedding's width divided by the number of heads. It
    cannot hold heads, head dimensions and embeddings that were cut independently.

    Args:
        dense: cut module, with cut parameters.
        heads: number of remaining heads.
    """

    def __init__(self, dense: nn.MultiheadAttention, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.batch_first = dense.batch_first
        self.dropout = dense.dropout
        self.in_proj_weight = dense.in_proj_weight
        self.q_proj_weight = dense.q_proj_weight
        self.k_proj_weight = dense.k_proj_weight
        self.v_proj_weight = dense.v_proj_weight
        self.in_proj_bias = dense.in_proj_bias
        self.bias_k, self.bias_v, self.add_zero_attn = dense.bias_k, dense.bias_v, dense.add_zero_attn
        self.out_proj = dense.out_proj
        self.out_proj.in_features = self.out_proj.weight.shape[1]
        self.out_proj.out_features = self.out_proj.weight.shape[0]
        self._qkv_same_embed_dim = False  # keeps torch's transformer layers off a kernel that divides by heads
        self.train(dense.training)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        batched = query.dim() == 3
        inputs = [x if batched else x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value)]
        if not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q_BHND, k_BHMD, v_BHMD = (self._heads(x) for x in self._with_biases(*self._project(inputs)))
        if self.add_zero_attn:
            k_BHMD, v_BHMD = F.pad(k_BHMD, (0, 0, 0, 1)), F.pad(v_BHMD, (0, 0, 0, 1))
        # masks do not cover the added keys, which every query sees
        added = k_BHMD.shape[2] - inputs[1].shape[1]
        mask = _merged(_padded(attn_mask, added), _padded(key_padding_mask, added), q_BHND)
        weights: torch.Tensor | None = None
        if need_weights:
            x_BHND, weights = self._explicit(q_BHND, k_BHMD, v_BHMD, mask)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            drop = self.dropout if self.training else 0.0
            causal = is_causal and mask is None
            x_BHND = F.scaled_dot_product_attention(q_BHND, k_BHMD, v_BHMD, mask, drop, causal)
        out = self.out_proj(x_BHND.transpose(1, 2).flatten(2))
        if not self.batch_first:
            out = out.transpose(0, 1)
        if not batched:
            out = out.squeeze(0 if self.batch_first else 1)
            weights = weights.squeeze(0) if weights is not None else None
        return out, weights

    def _project(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        packed: torch.Tensor | None = self.in_proj_weight
        separate = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        kernels = separate if packed is None else packed.chunk(3)
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [F.linear(x, w, b) for x, w, b in zip(inputs, kernels, biases, strict=True)]

    def _with_biases(self, query: torch.Tensor, *rest: torch.Tensor) -> list[torch.Tensor]:
        """Projected queries, keys and values; if there are a learnt key and value, they come after the others."""
        if self.bias_k is None or self.bias_v is None:
            return [query, *rest]
        biases = (bias.expand(len(query), 1, -1) for bias in (self.bias_k, self.bias_v))
        return [query, *(torch.cat((x, bias), 1) for x, bias in zip(rest, biases, strict=True))]

    def _heads(self, x_BNC: torch.Tensor) -> torch.Tensor:
        return torch.unflatten(x_BNC, -1, (self.num_heads, -1)).transpose(1, 2)

    def _explicit(
        self, q_BHND: torch.Tensor, k_BHMD: torch.Tensor, v_BHMD: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores = (q_BHND * q_BHND.shape[-1] ** -0.5) @ k_BHMD.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        return F.dropout(weights, self.dropout, self.training) @ v_BHMD, weights


def _merged(mask: torch.Tensor | None, padding: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """Both masks as one mask that is added to the scores."""
    parts: list[torch.Tensor] = []
    if mask is not None:
        # a three-dimensional mask has batch and heads in one dimension, as nn.MultiheadAttention takes it
        parts.append(_added(torch.unflatten(mask, 0, (like.shape[0], -1)) if mask.dim() == 3 else mask, like))
    if padding is not None:
        parts.append(_added(padding[:, None, None, :], like))
    return sum(parts[1:], parts[0]) if parts else None


def _padded(mask: torch.Tensor | None, added: int) -> torch.Tensor | None:
    return F.pad(mask, (0, added)) if mask is not None and added else mask


def _added(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)


def slim(dense: nn.MultiheadAttention, widths: Widths) -> nn.Module:
    """Create the replacement of a cut attention module.

    Args:
        dense: the module, with cut parameters.
        widths: extents before and after the cut.
    """
    rows = widths.graph.layouts[f"{widths.path}.out_proj.weight"][1]
    return SlimMultiheadAttention(dense, _heads(rows, dense.num_heads, widths))


def is_slim(module: nn.Module) -> bool:
    """Whether a module is the replacement of a cut attention module."""
    return isinstance(module, SlimMultiheadAttention)


def _heads(columns: Layout, dense_heads: int, widths: Widths) -> int:
    if not isinstance(columns, Product):
        return dense_heads
    count = before = 1
    for part in columns.parts:
        if before == dense_heads:
            break
        before *= int(extent(part, {}))
        count *= int(extent(part, widths.sizes))
    return count
