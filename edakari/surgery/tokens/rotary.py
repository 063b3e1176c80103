"""Rotary tables, which networks give to blocks beside the tokens, for the tokens that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edakari.surgery.tokens.state import TokenState

__all__ = ["rotations"]

ROPE = "rope"
"""What timm's blocks call a table [.., patches, sines and cosines]."""


def rotations(
    args: Sequence[Any], kwargs: Mapping[str, Any], state: TokenState, dense: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A block's arguments with the rows of its rotary tables that belong to the tokens that are there.

    Tables are tensors [.., patches, channels] named `rope` that hold sines and then cosines, or pairs of cosines and
    sines, as the networks of transformers have them. Packages stand for no place: they are not rotated.

    Args:
        args: of the block.
        kwargs: of the block.
        state: of the pass.
        dense: tokens before any is pruned, prefix included.
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
    """Rows of a table [N, D], [heads, N, D] or [batch or 1, heads or 1, N, D] by image, [batch, heads or 1, M, D]."""
    assert state.index is not None
    count = table.shape[-2]
    skipped = dense - count  # tokens at the front that the table has no rows for
    row_BM = state.index[:, skipped:] - skipped
    row_BM = torch.where(row_BM < 0, torch.full_like(row_BM, count), row_BM)
    whole = torch.cat([table, still], -2)
    whole = whole.view(*(1,) * (4 - whole.dim()), *whole.shape) if whole.dim() < 4 else whole
    index = row_BM[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[-1])
    return whole.expand(len(row_BM), -1, -1, -1).gather(-2, index)
