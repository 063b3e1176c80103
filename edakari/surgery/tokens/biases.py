"""What is added to the logits of attention so that masked tokens are not read, in the forms that networks need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edakari.surgery.tokens.state import TokenState

__all__ = ["additive", "apart", "attention_arguments", "fitted", "key_bias", "key_row", "placed"]

NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def attention_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `scaled_dot_product_attention` by their names."""
    return {**dict(zip(NAMES, args, strict=False)), **kwargs}


def key_bias(alive_BN: torch.Tensor, floor: float) -> torch.Tensor:
    """What is added to the logits of each key: log(alive), [B, 1, 1, N] (additive form of the authors' masked softmax).

    differs: pruned tokens do not even see themselves here; nothing reads their rows, and each key has one bias.

    Args:
        alive_BN: 1 or 0.
        floor: added to it, so that the gradient is finite where it is 0.
    """
    alive_BN = alive_BN.to(torch.promote_types(alive_BN.dtype, torch.float32))
    return torch.log(alive_BN + floor if floor else alive_BN)[:, None, None, :]


def key_row(state: TokenState, count: int) -> torch.Tensor | None:
    """What is added to the logits of each of `count` keys, [B or 1, count]; None if nothing is.

    Args:
        state: of the pass.
        count: keys of an attention; one over other tensors than the tokens that are there gets nothing.
    """
    row = None
    if state.alive is not None and state.alive.shape[-1] == count:
        row = key_bias(state.alive, state.bias_floor)[:, 0, 0]
    if state.size is not None and state.size.shape[-1] == count:
        size = torch.log(state.size)
        row = size if row is None else row + size
    return row


def fitted(row_BN: torch.Tensor, shape: Sequence[int], dim: int) -> torch.Tensor | None:
    """One row for each image in the form of a tensor whose first dimension holds images, or images times heads.

    Args:
        row_BN: a value for each token of each image; one row serves all images.
        shape: of the tensor that it is added to.
        dim: the tensor's dimension of tokens, counted from the front.

    Returns:
        None if the tensor's first dimension is no multiple of the number of images.
    """
    if dim == 0 or shape[0] % len(row_BN):
        return None
    times = 1 if len(row_BN) == 1 else shape[0] // len(row_BN)
    row_BN = row_BN.repeat_interleave(times, 0) if times > 1 else row_BN
    return row_BN.view(len(row_BN), *(row_BN.shape[1] if index == dim else 1 for index in range(1, len(shape))))


def apart(lengths: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """1 where two tokens that lie in one row belong to one image, else 0, [T, T]."""
    image = torch.repeat_interleave(torch.tensor(list(lengths), device=like.device))
    return (image[:, None] == image[None]).to(like.dtype)


def additive(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask as what is added to logits, in the floating type of another one."""
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, -torch.inf)


def placed(mask: torch.Tensor, place_BN: torch.Tensor | None, dense: int) -> torch.Tensor:
    """The part of a mask over the dense network's tokens that belongs to the tokens that are there.

    Args:
        mask: for each pair of tokens whether the one reads the other (bool) or what is added to its logit, [dense,
            dense] or [batch or 1, heads or 1, dense, dense]; others are given back as they are.
        place_BN: of each token in the dense network, -1 for packages, which everything reads; None is all in place.
        dense: tokens before the first selector.
    """
    if place_BN is None or mask.dim() not in (2, 4) or mask.shape[-2:] != (dense, dense):
        return mask
    mask = mask[None, None] if mask.dim() == 2 else mask
    there_BN, safe_BN = place_BN >= 0, place_BN.clamp_min(0)
    rows_BHNM = mask.expand(len(place_BN), -1, -1, -1).gather(
        -2, safe_BN[:, None, :, None].expand(-1, mask.shape[1], -1, dense)
    )
    both = rows_BHNM.gather(-1, safe_BN[:, None, None, :].expand(-1, mask.shape[1], place_BN.shape[1], -1))
    there = there_BN[:, None, :, None] & there_BN[:, None, None, :]
    return both.masked_fill(~there, mask.dtype is torch.bool)
