"""Attention among the remaining tokens, without changes to the code of any network.

Every attention ends in `scaled_dot_product_attention` or in a softmax. This mode intercepts these functions. It hides
masked tokens, separates the images of a packed row, and selects the rows and columns of relative position biases that
belong to the remaining tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode

from edakari.errors import ModelError
from edakari.surgery.tokens.biases import additive, apart, attention_arguments, fitted, key_bias, key_row, placed
from edakari.surgery.tokens.pooling import over_living
from edakari.surgery.tokens.reductions import SOFTMAX, Reduction, Role, Roles, reduction, replaced
from edakari.surgery.tokens.regions import forward_region
from edakari.surgery.tokens.state import TokenState

__all__ = ["TokenAttention"]

PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm)
ATTENTIONS = (F.multi_head_attention_forward, F.scaled_dot_product_attention, *SOFTMAX)
WEIGHTS_STAY = (
    *(F.dropout, torch.dropout, torch.Tensor.to, torch.Tensor.type, torch.Tensor.type_as, torch.Tensor.float),
    *(torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.double, torch.Tensor.contiguous, torch.Tensor.clone),
    *(torch.Tensor.view, torch.Tensor.reshape, torch.reshape, torch.Tensor.flatten, torch.flatten),
    *(torch.Tensor.unflatten, torch.Tensor.squeeze, torch.Tensor.unsqueeze),
    *(torch.unflatten, torch.squeeze, torch.unsqueeze, torch.clone),
)
"""Functions between the softmax and the product with the values that keep zeros at 0."""


class TokenAttention(TorchFunctionMode):
    """Adapts torch functions inside a block to the tokens of one forward pass."""

    def __init__(self, state: TokenState, dense: int, roles: Sequence[Role] = ()) -> None:
        """Make the mode for a block.

        Args:
            state: state of the pass.
            dense: number of tokens before the first selector.
            roles: roles of the block's reductions.
        """
        super().__init__()
        self.state, self.dense, self.roles = state, dense, Roles(roles)
        self.region = forward_region()
        self.weights: torch.Tensor | None = None  # of the softmax whose product with values is still to come

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in ATTENTIONS and self.region is not forward_region():
            raise ModelError(
                "a block with token selectors checkpoints a part that contains its attention; this part would run "
                "again without the tokens' masks. Checkpoint complete blocks (torch.utils.checkpoint around a block), "
                "or disable gradient checkpointing"
            )
        if func is F.multi_head_attention_forward:
            return self._module(func, args, kwargs)
        if func is F.scaled_dot_product_attention:
            return self._product(func, args, kwargs)
        if self.weights is not None and args:
            if func in PRODUCTS and len(args) == 2:
                args = (self._unmixed(args[0]), args[1])
            elif args[0] is self.weights and func in WEIGHTS_STAY:
                self.weights = func(*args, **kwargs)
                return self.weights
        found = reduction(func, args, kwargs)
        role = None if found is None else self.roles.next(found)
        if found is None or role is False:
            return func(*args, **kwargs)
        if found.kind == "softmax":
            return self._softmax(found, func, args, kwargs)
        lengths = self.state.lengths
        if lengths is None:
            return over_living(self.state, found, role, func, args, kwargs)
        if found.x.dim() == 3 and len(found.x) == 1 and found.x.shape[found.dim] == sum(lengths):
            raise ModelError(_one_row(f"a {found.kind} over all tokens"))
        return func(*args, **kwargs)

    def _softmax(self, found: Reduction, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        logits, count = found.x, found.x.shape[found.dim]
        row = key_row(self.state, count)
        lengths = self.state.lengths
        square = found.dim == logits.dim() - 1 and logits.dim() > 2 and logits.shape[-2] == count
        if lengths is not None and count == sum(lengths):
            if not square:
                raise ModelError(_one_row("a softmax that is not over pairs of tokens"))
            logits = logits + torch.log(apart(lengths, logits))
        bias = None if row is None else fitted(row, logits.shape, found.dim)
        if bias is not None:
            logits = logits + bias.to(logits.dtype)
        args, kwargs = replaced(logits, args, kwargs)
        out = func(*args, **kwargs)
        self.weights = out if square and row is not None else None
        return out

    def _unmixed(self, left: Any) -> Any:
        """Attention weights with 0 for masked keys, also if heads were mixed and a bias was added."""
        weights, self.weights = self.weights, None
        state = self.state
        if left is weights or not isinstance(left, torch.Tensor) or left.dim() < 3:
            return left
        count = left.shape[-1]
        if weights is None or left.shape[-2:] != weights.shape[-2:]:
            self.weights = weights  # another product; that with the values is still to come
            return left
        if state.lengths is not None and sum(state.lengths) == count:
            left = left * apart(state.lengths, left)
        alive = state.alive if state.alive is not None and state.alive.shape[-1] == count else None
        mask = None if alive is None else fitted(alive, left.shape, left.dim() - 1)
        return left if mask is None else left * mask.to(left.dtype)

    def _product(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
        named = attention_arguments(args, kwargs)
        q, k, mask = named["query"], named["key"], named.get("attn_mask")
        if q.dim() == 4:
            self.state.attended = (q, k)
        mask = None if mask is None else placed(mask, self.state.index, self.dense)
        if self.state.lengths is not None and sum(self.state.lengths) == k.shape[-2]:
            out: torch.Tensor = self._apart(func, {**named, "attn_mask": mask})
            return out
        row = key_row(self.state, k.shape[-2])
        bias = None if row is None else fitted(row, (*q.shape[:-1], k.shape[-2]), q.dim() - 1)
        if bias is not None:
            mask = (bias if mask is None else additive(mask, bias) + bias).to(q.dtype)
            if named.get("is_causal"):
                later = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
                mask, named = mask.masked_fill(later, -torch.inf), {**named, "is_causal": False}
        product: torch.Tensor = func(**{**named, "attn_mask": mask})
        return product

    def _module(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The function of `nn.MultiheadAttention`: a mode does not see its inner calls, but it accepts a mask."""
        query_NBC, key_SBC, heads = args[0], args[1], args[4]
        count, batch = query_NBC.shape[:2]
        self._note_projections(args)
        mask = None
        if self.state.lengths is not None and sum(self.state.lengths) == count:
            mask = torch.log(apart(self.state.lengths, query_NBC))[None, None]
        row = key_row(self.state, key_SBC.shape[0])
        if row is not None:
            bias = row[:, None, None]
            mask = bias if mask is None else mask + bias
        if mask is not None:
            mask = mask.to(query_NBC.dtype).expand(batch, heads, count, key_SBC.shape[0]).flatten(0, 1)
            given = kwargs.get("attn_mask")
            kwargs = {**kwargs, "attn_mask": mask if given is None else mask + additive(given, mask)}
        return func(*args, **kwargs)

    def _note_projections(self, args: Sequence[Any]) -> None:
        query_NBC, heads, weight, bias = args[0], args[4], args[5], args[6]
        if weight is None:
            return
        count, batch, width = query_NBC.shape
        both = F.linear(query_NBC, weight[: 2 * width], None if bias is None else bias[: 2 * width])
        q, k = both.transpose(0, 1).reshape(batch, count, 2, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        self.state.attended = (q, k)

    def _apart(self, func: Any, named: dict[str, Any]) -> torch.Tensor:
        """Attention of images in one packed row: one image after the other, or all images of one length together."""
        if named["query"].dim() == 3:
            whole = {name: named[name][None] for name in ("query", "key", "value")}
            return self._apart(func, {**named, **whole})[0]
        if named.get("is_causal"):
            raise ModelError(_one_row("causal attention"))
        lengths = self.state.lengths
        assert lengths is not None
        parts = {name: torch.split(named[name], lengths, dim=-2) for name in ("query", "key", "value")}
        alive, size = self.state.alive, self.state.size
        found: list[torch.Tensor | None] = [None] * len(lengths)
        for length in sorted(set(lengths)):
            same = [index for index, each in enumerate(lengths) if each == length]
            stacked = {name: torch.cat([parts[name][index] for index in same]) for name in parts}
            mask = None
            if alive is not None:
                row = torch.split(alive, lengths, dim=-1)
                mask = key_bias(torch.cat([row[index] for index in same]), 0.0).to(stacked["query"].dtype)
            if size is not None:
                row = torch.split(size, lengths, dim=-1)
                large = torch.log(torch.cat([row[index] for index in same]))[:, None, None].to(stacked["query"].dtype)
                mask = large if mask is None else mask + large
            if named["attn_mask"] is not None:
                own = torch.cat([_square(named["attn_mask"], index, lengths) for index in same])
                mask = own if mask is None else additive(own, mask) + mask
            outs = func(**{**named, **stacked, "attn_mask": mask})
            for index, out in zip(same, torch.split(outs, 1), strict=True):
                found[index] = out
        return torch.cat([out for out in found if out is not None], dim=-2)


def _square(mask: torch.Tensor, index: int, lengths: Sequence[int]) -> torch.Tensor:
    first = sum(lengths[:index])
    return mask[..., first : first + lengths[index], first : first + lengths[index]]


def _one_row(what: str) -> str:
    return (
        f"a block contains {what}, which would mix images in one packed row; use the strategy 'padded' or 'mask' "
        "instead of 'packed' or 'bucketed'"
    )
