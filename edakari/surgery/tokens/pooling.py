"""Pooling after the blocks and reductions inside them, over the present tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode

from edakari.surgery.tokens.biases import additive, attention_arguments, fitted, key_bias
from edakari.surgery.tokens.reductions import Reduction, reduction, replaced
from edakari.surgery.tokens.state import TokenState

__all__ = ["TokenPooling", "largest_over_tokens", "over_living"]


def over_living(
    state: TokenState, found: Reduction, role: bool | None, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Compute a mean, a sum or an extremum; masked tokens are ignored.

    Args:
        state: state of the pass.
        found: the reduction.
        role: whether the reduction is along tokens; None decides by the size.
        func: the called function.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
    """
    alive = None if role is False else _alive_along(state, found, role)
    if alive is None:
        return func(*args, **kwargs)
    shape = (len(alive), -1, 1) if found.dim == 1 else (len(alive), 1, -1)
    if found.kind == "mean":
        weight = (alive / alive.sum(1, keepdim=True).clamp_min(1.0)).view(shape)
        return _weighted(found, weight)
    if found.kind == "sum":
        return _weighted(found, alive.view(shape))
    fill = torch.inf if found.kind == "smallest" else -torch.inf
    args, kwargs = replaced(found.x.masked_fill(alive.view(shape) == 0, fill), args, kwargs)
    return func(*args, **kwargs)


def _weighted(found: Reduction, weight: torch.Tensor) -> torch.Tensor:
    living = torch.where(weight > 0, found.x, torch.zeros_like(found.x))
    # a product of matrices is faster than a sum of products
    if found.dim == 1:
        out = torch.einsum("bnz,bnc->bc", weight.to(living.dtype), living)
    else:
        out = torch.einsum("bzn,bcn->bc", weight.to(living.dtype), living)
    return out.unsqueeze(found.dim) if found.keepdim else out


def _alive_along(state: TokenState, found: Reduction, role: bool | None) -> torch.Tensor | None:
    """Return which tokens of a tensor [batch, tokens, channels] or [batch, channels, tokens] are present."""
    if found.kind == "softmax" or found.x.dim() != 3 or found.dim == 0:
        return None
    if role is None and found.dim == 2 and _living(state, found.x.shape[0], found.x.shape[1]) is not None:
        whole = None if state.alive is None else state.alive.shape[1]
        if found.x.shape[2] != whole or found.x.shape[1] == whole:
            return None  # judging by sizes, the second dimension holds the tokens
    return _living(state, found.x.shape[0], found.x.shape[found.dim])


def _living(state: TokenState, images: int, count: int) -> torch.Tensor | None:
    """Return 1 or 0 for each of `count` tokens; prefix tokens may be missing, or one added at the front."""
    alive = state.alive
    if alive is None or len(alive) != images:
        return None
    if alive.shape[1] - state.prefix <= count <= alive.shape[1]:
        return alive[:, alive.shape[1] - count :]
    if count == alive.shape[1] + 1:
        return torch.cat([torch.ones_like(alive[:, :1]), alive], 1)
    return None


class TokenPooling(TorchFunctionMode):
    """Makes every pooling after the blocks ignore masked tokens."""

    def __init__(self, state: TokenState) -> None:
        super().__init__()
        self.state = state

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.state.inside or self.state.alive is None:  # a block has its own mode
            return func(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return func(*args, **self._module_masked(args, kwargs))
        if func is F.scaled_dot_product_attention:
            return self._product(func, args, kwargs)
        found = reduction(func, args, kwargs)
        if found is None:
            return func(*args, **kwargs)
        role = self.state.roles.next(found) if self.state.roles is not None else None
        if found.kind == "softmax" and role is not False:
            row = self._row(found.x.shape[found.dim])
            bias = None if row is None else fitted(row, found.x.shape, found.dim)
            if bias is not None:
                args, kwargs = replaced(found.x + bias.to(found.x.dtype), args, kwargs)
            return func(*args, **kwargs)
        return over_living(self.state, found, role, func, args, kwargs)

    def _row(self, count: int) -> torch.Tensor | None:
        """The bias on the logits of `count` tokens, [B, count]."""
        alive = self.state.alive
        alive = None if alive is None else _living(self.state, len(alive), count)
        return None if alive is None else key_bias(alive, self.state.bias_floor)[:, 0, 0]

    def _product(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        named = attention_arguments(args, kwargs)
        q, mask, count = named["query"], named.get("attn_mask"), named["key"].shape[-2]
        row = self._row(count)
        bias = None if row is None else fitted(row, (*q.shape[:-1], count), q.dim() - 1)
        if bias is not None:
            bias = bias.to(q.dtype)
            mask = bias if mask is None else additive(mask, bias) + bias
        return func(**{**named, "attn_mask": mask})

    def _module_masked(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        query_NBC, key_SBC, heads = args[0], args[1], args[4]
        row = self._row(key_SBC.shape[0])
        if row is None or len(row) != key_SBC.shape[1]:
            return dict(kwargs)
        mask = row[:, None, None].to(query_NBC.dtype).expand(-1, heads, query_NBC.shape[0], -1).flatten(0, 1)
        given = kwargs.get("attn_mask")
        return {**kwargs, "attn_mask": mask if given is None else mask + additive(given, mask)}


def largest_over_tokens(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the tensor that a call takes the maximum of, [batch, tokens, channels]; None for other calls.

    The dimension of tokens is unknown here: for [batch, channels, tokens] the transposed tensor is returned.
    """
    found = reduction(func, args, kwargs)
    if found is None or found.kind != "largest" or found.x.dim() != 3 or found.dim == 0:
        return None
    return found.x if found.dim == 1 else found.x.transpose(1, 2)
