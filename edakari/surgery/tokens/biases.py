"""Biases on attention logits that hide masked tokens, in the forms that networks need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edakari.surgery.tokens.state import TokenState

__all__ = ["additive", "apart", "attention_arguments", "fitted", "key_bias", "key_row", "placed"]

NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def attention_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of `scaled_dot_product_attention` by name."""
    return {**dict(zip(NAMES, args, strict=False)), **kwargs}


def key_bias(alive_BN: torch.Tensor, floor: float) -> torch.Tensor:
    """Compute the bias of each key: log(alive), [B, 1, 1, N] (additive form of the authors' masked softmax).

    differs: pruned tokens do not see themselves here. Nothing reads their rows, and each key has one bias.

    Args:
        alive_BN: 1 for present tokens, 0 for masked tokens.
        floor: small value that is added, so that the gradient is finite at 0.
    """
    alive_BN = alive_BN.to(torch.promote_types(alive_BN.dtype, torch.float32))
    return torch.log(alive_BN + floor if floor else alive_BN)[:, None, None, :]


def key_row(state: TokenState, count: int) -> torch.Tensor | None:
    """Return the bias on the logits of each of `count` keys, [B or 1, count]; None without a bias.

    Args:
        state: state of the pass.
        count: number of keys of an attention; there is no bias if it differs from the number of present tokens.
    """
    row = None
    if state.alive is not None and state.alive.shape[-1] == count:
        row = key_bias(state.alive, state.bias_floor)[:, 0, 0]
    if state.size is not None and state.size.shape[-1] == count:
        size = torch.log(state.size)
        row = size if row is None else row + size
    return row


def fitted(row_BN: torch.Tensor, shape: Sequence[int], dim: int) -> torch.Tensor | None:
    """Reshape one row per image for a tensor whose first dimension holds images, or images times heads.

    Args:
        row_BN: one value for each token of each image; a single row is used for all images.
        shape: shape of the tensor that the row is added to.
        dim: dimension of tokens in this tensor, counted from the front.

    Returns:
        The reshaped row; None if the tensor's first dimension is not a multiple of the number of images.
    """
    if dim == 0 or shape[0] % len(row_BN):
        return None
    times = 1 if len(row_BN) == 1 else shape[0] // len(row_BN)
    row_BN = row_BN.repeat_interleave(times, 0) if times > 1 else row_BN
    return row_BN.view(len(row_BN), *(row_BN.shape[1] if index == dim else 1 for index in range(1, len(shape))))


def apart(lengths: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Return a mask over pairs of tokens in a packed row: 1 for pairs of the same image, else 0, [T, T]."""
    image = torch.repeat_interleave(torch.tensor(list(lengths), device=like.device))
    return (image[:, None] == image[None]).to(like.dtype)


def additive(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Convert a mask to a bias on logits, in the floating type of `like`."""
    if mask.dtype is not torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, -torch.inf)


def placed(mask: torch.Tensor, place_BN: torch.Tensor | None, dense: int) -> torch.Tensor:
    """Select the part of a mask over the dense network's tokens that belongs to the present tokens.

    Args:
        mask: boolean mask or bias for each pair of tokens, [dense, dense] or [batch or 1, heads or 1, dense, dense];
            other shapes are returned unchanged.
        place_BN: index of each token in the dense network, -1 for packages, which all tokens read; None if unchanged.
        dense: number of tokens before the first selector.
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
