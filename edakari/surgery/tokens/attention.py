"""Attention among the tokens that are left, without touching the code of any network.

Every attention ends in `scaled_dot_product_attention` or in a softmax, and every average pooling in a mean over tokens.
This mode stands in front of these functions: it hides masked tokens from being read, keeps images that lie in one row
apart, and picks the rows and columns of relative position biases that belong to the tokens that are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch.overrides import TorchFunctionMode

from edakari.surgery.tokens.layout import over_tokens
from edakari.surgery.tokens.state import TokenState

__all__ = ["DenseHead", "TokenAttention", "TokenPooling", "additive", "key_bias"]

SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax)
MEAN = (torch.mean, torch.Tensor.mean)
NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def key_bias(alive_BN: torch.Tensor, floor: float) -> torch.Tensor:
    """What is added to the logits of each key: log(alive), [B, 1, 1, N] (additive form of the authors' masked softmax).

    differs: pruned tokens do not even see themselves here; nothing reads their rows, and each key has one bias.

    Args:
        alive_BN: 1 or 0.
        floor: added to it, so that the gradient is finite where it is 0.
    """
    alive_BN = alive_BN.to(torch.promote_types(alive_BN.dtype, torch.float32))
    return torch.log(alive_BN + floor if floor else alive_BN)[:, None, None, :]


class TokenAttention(TorchFunctionMode):
    """Torch functions as the tokens of one forward pass need them."""

    def __init__(self, state: TokenState, dense: int) -> None:
        """Args: state of the pass; `dense` is the number of tokens before the first selector."""
        super().__init__()
        self.state, self.dense = state, dense

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._module(func, args, kwargs)
        if func is F.scaled_dot_product_attention:
            return self._product(func, args, kwargs)
        if func in SOFTMAX and args[0].dim() == 4:
            return func(self._biased(args[0]), *args[1:], **kwargs)
        return func(*args, **kwargs)

    def _product(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
        named = {**dict(zip(NAMES, args, strict=False)), **kwargs}
        q, k, mask = named["query"], named["key"], named.get("attn_mask")
        self.state.attended = (q, k)
        mask = None if mask is None else _placed(mask, self.state.place, self.dense)
        if self.state.lengths is not None and sum(self.state.lengths) == k.shape[-2]:
            out: torch.Tensor = self._apart(func, {**named, "attn_mask": mask})
            return out
        bias = self._bias(k)
        if bias is not None:
            mask = (bias if mask is None else additive(mask, bias) + bias).to(q.dtype)
        product: torch.Tensor = func(**{**named, "attn_mask": mask})
        return product

    def _module(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The function behind `nn.MultiheadAttention`: no mode sees what it calls, but it takes a mask."""
        query_NBC, heads = args[0], args[4]
        count, batch = query_NBC.shape[:2]
        self._note_projections(args)
        mask = None
        if self.state.lengths is not None and sum(self.state.lengths) == count:
            image = torch.repeat_interleave(torch.tensor(self.state.lengths, device=query_NBC.device))
            apart = (image[:, None] != image[None]).to(query_NBC.dtype)
            mask = torch.zeros_like(apart).masked_fill(apart > 0, -torch.inf)[None, None]
        bias = self._bias(query_NBC.transpose(0, 1))
        if bias is not None:
            mask = bias if mask is None else mask + bias
        if mask is not None:
            mask = mask.to(query_NBC.dtype).expand(batch, heads, count, count).flatten(0, 1)
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
        """Attention of images that lie in one row, one image after the other, or all of one length at once."""
        lengths = self.state.lengths
        assert lengths is not None
        parts = {name: torch.split(named[name], lengths, dim=-2) for name in ("query", "key", "value")}
        alive, size = self.state.alive, self.state.size
        found: list[torch.Tensor | None] = [None] * len(lengths)
        for length in sorted(set(lengths)):
            same = [place for place, each in enumerate(lengths) if each == length]
            stacked = {name: torch.cat([parts[name][place] for place in same]) for name in parts}
            mask = None
            if alive is not None:
                row = torch.split(alive, lengths, dim=-1)
                mask = key_bias(torch.cat([row[place] for place in same]), 0.0).to(stacked["query"].dtype)
            if size is not None:
                row = torch.split(size, lengths, dim=-1)
                large = torch.log(torch.cat([row[place] for place in same]))[:, None, None].to(stacked["query"].dtype)
                mask = large if mask is None else mask + large
            if named["attn_mask"] is not None:
                own = torch.cat([_square(named["attn_mask"], place, lengths) for place in same])
                mask = own if mask is None else additive(own, mask) + mask
            outs = func(**{**named, **stacked, "attn_mask": mask})
            for place, out in zip(same, torch.split(outs, 1), strict=True):
                found[place] = out
        return torch.cat([out for out in found if out is not None], dim=-2)

    def _bias(self, keys: torch.Tensor) -> torch.Tensor | None:
        state, count = self.state, keys.shape[-2]
        bias = None
        if state.alive is not None and state.alive.shape[-1] == count:
            bias = key_bias(state.alive, state.bias_floor)
        if state.size is not None and state.size.shape[-1] == count:
            size = torch.log(state.size)[:, None, None, :]
            bias = size if bias is None else bias + size
        return bias

    def _biased(self, logits: torch.Tensor) -> torch.Tensor:
        bias = self._bias(logits.transpose(-1, -2))
        return logits if bias is None else logits + bias.to(logits.dtype)


def _placed(mask: torch.Tensor, place_BN: torch.Tensor | None, dense: int) -> torch.Tensor:
    """The part of a mask over the dense network's tokens that belongs to the tokens that are there.

    Args:
        mask: for each pair of tokens whether the one reads the other (bool) or what is added to its logit, [batch or 1,
            heads or 1, dense, dense]; others are given back as they are.
        place_BN: of each token in the dense network, -1 for packages, which everything reads; None is all in place.
        dense: tokens before the first selector.
    """
    if place_BN is None or mask.dim() != 4 or mask.shape[-2:] != (dense, dense):
        return mask
    there_BN, safe_BN = place_BN >= 0, place_BN.clamp_min(0)
    rows_BHNM = mask.expand(len(place_BN), -1, -1, -1).gather(
        -2, safe_BN[:, None, :, None].expand(-1, mask.shape[1], -1, dense)
    )
    both = rows_BHNM.gather(-1, safe_BN[:, None, None, :].expand(-1, mask.shape[1], place_BN.shape[1], -1))
    there = there_BN[:, None, :, None] & there_BN[:, None, None, :]
    return both.masked_fill(~there, mask.dtype is torch.bool)


class TokenPooling(TorchFunctionMode):
    """Behind the blocks, means and maxima over tokens and attention pooling leave out those that are masked."""

    def __init__(self, state: TokenState) -> None:
        super().__init__()
        self.state = state

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MEAN and args and args[0].dim() == 3:
            return self._mean(func, args, kwargs)
        if not self.state.inside and over_tokens(func, args, kwargs):
            return func(self._living(args[0]), *args[1:], **kwargs)
        if func is F.scaled_dot_product_attention and not self.state.inside:
            kwargs = {**dict(zip(NAMES, args, strict=False)), **kwargs}
            args, kwargs = (), {**kwargs, "attn_mask": self._masked(kwargs)}
        return func(*args, **kwargs)

    def _masked(self, named: Mapping[str, Any]) -> torch.Tensor | None:
        mask: torch.Tensor | None = named.get("attn_mask")
        alive, count = self.state.alive, named["key"].shape[-2]
        if alive is None or not 0 <= count - alive.shape[1] <= 1:
            return mask
        # a class token may have joined in front
        alive = torch.cat([torch.ones_like(alive[:, : count - alive.shape[1]]), alive], 1)
        bias = key_bias(alive, self.state.bias_floor).to(named["query"].dtype)
        return bias if mask is None else additive(mask, bias) + bias

    def _living(self, x: torch.Tensor) -> torch.Tensor:
        """What is said of tokens that are masked is below all else."""
        alive = self.state.alive
        if alive is not None and x.shape[1] == alive.shape[1] - self.state.prefix:
            alive = alive[:, self.state.prefix :]
        if alive is None or x.shape[1] != alive.shape[1]:
            return x
        return x.masked_fill(alive[..., None] == 0, -torch.inf)

    def _mean(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
        x, dim = args[0], kwargs.get("dim", args[1] if len(args) > 1 else None)
        alive = self.state.alive
        if alive is not None and x.shape[1] == alive.shape[1] - self.state.prefix:
            alive = alive[:, self.state.prefix :]
        if alive is None or dim not in (1, (1,), [1]) or x.shape[1] != alive.shape[1]:
            plain: torch.Tensor = func(*args, **kwargs)
            return plain
        weight = (alive / alive.sum(1, keepdim=True).clamp_min(1.0)).to(x.dtype)
        mean = torch.einsum("bn,bnc->bc", weight, torch.where(alive[..., None] > 0, x, torch.zeros_like(x)))
        return mean[:, None] if kwargs.get("keepdim") else mean


class DenseHead(TorchFunctionMode):
    """Notes what a head says of every patch, [B, N, classes], where it then takes the largest over them."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if over_tokens(func, args, kwargs):
            self.logits.append(args[0])
        return func(*args, **kwargs)


def additive(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask as what is added to logits, in the floating type of another one."""
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, -torch.inf)


def _square(mask: torch.Tensor, place: int, lengths: Sequence[int]) -> torch.Tensor:
    first = sum(lengths[:place])
    return mask[..., first : first + lengths[place], first : first + lengths[place]]
