"""Rotary tables, which networks pass to blocks next to the tokens, for the present tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edakari.surgery.tokens.state import TokenState

__all__ = ["rotations"]

ROPE = "rope"
"""Name of the argument of timm's blocks with a table [.., patches, sines and cosines]."""


def rotations(
    args: Sequence[Any], kwargs: Mapping[str, Any], state: TokenState, dense: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a block's arguments with the rows of its rotary tables for the present tokens.

    Tables are tensors [.., patches, channels] named `rope` that hold sines and then cosines, or pairs of cosines and
    sines, as in the transformers library. Packages have no position, so they are not rotated.

    Args:
        args: positional arguments of the block.
        kwargs: keyword arguments of the block.
        state: state of the pass.
        dense: number of tokens before pruning, including the prefix.
    """
    if state.index is None:
        return tuple(args), dict(kwargs)
    named = {name: _turned(value, state, dense, name == ROPE) for name, value in kwargs.items()}
    return tuple(_turned(value, state, dense, False) for value in args), named


def _turned(value: Any, state: TokenState, dense: int, joined: bool) -> Any:
    if joined and _is_table(value, state, dense):
        half = value.shape[-1] // 2
        still = torch.cat([torch.zeros_like(value[..., :1, :half]), torch.ones_like(value[..., :1, half:])], -1)
        return _rows(value, still, state, dense)
    if isinstance(value, tuple) and len(value) == 2 and all(_is_table(each, state, dense) for each in value):
        cosines, sines = value
        return (
            _rows(cosines, torch.ones_like(cosines[..., :1, :]), state, dense),
            _rows(sines, torch.zeros_like(sines[..., :1, :]), state, dense),
        )
    return value


def _is_table(value: Any, state: TokenState, dense: int) -> bool:
    if not isinstance(value, torch.Tensor) or value.dim() < 2:
        return False
    return value.shape[-2] in (dense, dense - state.prefix) and value.is_floating_point()


def _rows(table: torch.Tensor, still: torch.Tensor, state: TokenState, dense: int) -> torch.Tensor:
    """Select rows of a table [N, D], [heads, N, D] or [batch or 1, heads or 1, N, D]: [batch, heads or 1, M, D]."""
    assert state.index is not None
    count = table.shape[-2]
    skipped = dense - count  # tokens at the front without rows in the table
    row_BM = state.index[:, skipped:] - skipped
    row_BM = torch.where(row_BM < 0, torch.full_like(row_BM, count), row_BM)
    whole = torch.cat([table, still], -2)
    whole = whole.view(*(1,) * (4 - whole.dim()), *whole.shape) if whole.dim() < 4 else whole
    index = row_BM[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[-1])
    return whole.expand(len(row_BM), -1, -1, -1).gather(-2, index)
