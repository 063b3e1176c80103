"""Shapes that code sets with explicit sizes: which arguments of which functions are sizes, and in which source line."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from edakari.graph import algebra
from edakari.graph.algebra import DimExpr
from edakari.graph.tracked_ints import SIZES, IntTracker, Pairs, Stated, TrackedInt

__all__ = ["SHAPE_OPERATORS", "line_of_code"]


def _sizes(*functions: Any) -> Callable[[Pairs], Pairs]:
    def add(pairs: Pairs) -> Pairs:
        SIZES.update(dict.fromkeys(functions, pairs))
        return pairs

    return add


def _paired(ints: IntTracker, sizes: Iterable[Any], dims: Sequence[DimExpr]) -> Stated:
    for size, dim in zip(sizes, dims, strict=False):
        if isinstance(size, TrackedInt):
            yield size, dim
        elif isinstance(size, int) and size > 0 and not isinstance(dim, int):
            ints.literal.append(dim)


def _flat(args: Sequence[Any]) -> Sequence[Any]:
    return args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args


@_sizes(
    torch.Tensor.view,
    torch.Tensor.reshape,
    torch.Tensor.expand,
    torch.Tensor.broadcast_to,
    torch.Tensor.new_zeros,
    torch.Tensor.new_ones,
    torch.Tensor.new_empty,
    torch.reshape,
    torch.broadcast_to,
)
def _trailing_sizes(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    sizes = _flat(args[1:]) or kwargs.get("shape") or kwargs.get("size") or ()
    return _paired(ints, sizes, ints.dims_of(out))


@_sizes(torch.Tensor.repeat)
def _repeat_sizes(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    times = _flat(args[1:]) or kwargs.get("repeats", ())
    before = [*[1] * (len(times) - args[0].dim()), *args[0].shape]
    # a repeated single position has the length that the number gives
    single = [(count, dim) for count, dim, length in zip(times, ints.dims_of(out), before, strict=True) if length == 1]
    return _paired(ints, [count for count, _ in single], [dim for _, dim in single])


@_sizes(torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn)
def _new_sizes(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    return _paired(ints, _flat(args) or kwargs.get("size", ()), ints.dims_of(out))


@_sizes(torch.full)
def _full_sizes(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    return _paired(ints, args[0] if args else kwargs["size"], ints.dims_of(out))


@_sizes(torch.Tensor.unflatten, torch.unflatten)
def _unflatten_sizes(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    along = args[1] if len(args) > 1 else kwargs["dim"]
    sizes = args[2] if len(args) > 2 else kwargs["sizes"]
    start = along if along >= 0 else args[0].dim() + along
    return _paired(ints, sizes, ints.dims_of(out)[start:])


@_sizes(torch.Tensor.split, torch.split, torch.Tensor.split_with_sizes, torch.split_with_sizes)
def _split_sizes(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    sizes = next(value for value in (*args[1:], *kwargs.values()) if isinstance(value, int | tuple | list))
    along = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    each = sizes if isinstance(sizes, tuple | list) else [sizes] * len(out)
    return _paired(ints, each, [ints.dims_of(piece)[along] for piece in out])


@_sizes(torch.Tensor.narrow, torch.narrow)
def _narrow_size(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    if len(args) > 3:
        yield from _paired(ints, [args[3]], [ints.dims_of(out)[args[1]]])


@_sizes(torch.Tensor.tensor_split, torch.tensor_split)
def _piece_count(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    along = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    return _paired(ints, [len(out)] * len(out), [ints.dims_of(piece)[along] for piece in out])


@_sizes(torch.Tensor.__getitem__)
def _slice_sizes(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    picks = args[1] if isinstance(args[1], tuple) else (args[1],)
    if not all(isinstance(pick, slice | type(...)) or pick is None for pick in picks):
        return
    real = [pick for pick in picks if pick is not None]
    missing = args[0].dim() - len([pick for pick in real if pick is not ...])
    whole = list(ints.dims_of(args[0]))
    index = 0
    for pick in real:
        if pick is ...:
            index += missing
            continue
        yield from _slice_size(ints, pick, whole[index])
        index += 1


def _slice_size(ints: IntTracker, pick: slice, whole: DimExpr) -> Stated:
    if any(bound and not isinstance(bound, TrackedInt) for bound in (pick.start, pick.stop)):
        ints.literal.append(whole)
    if not pick.start and isinstance(pick.stop, TrackedInt):
        pieces = algebra.cut(whole, int(pick.stop)) if 0 < pick.stop < algebra.size(whole) else None
        yield pick.stop, pieces[0] if pieces else whole
    elif isinstance(pick.start, TrackedInt) and 0 < pick.start < algebra.size(whole):
        pieces = algebra.cut(whole, int(pick.start))
        if pieces:
            yield pick.start, pieces[0]


@_sizes(F.layer_norm, torch.layer_norm, F.rms_norm)
def _normalized_sizes(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    # a wrong number is an error here, so a plain one needs no check
    return _paired(
        ints,
        (size if isinstance(size, TrackedInt) else -1 for size in shape),
        ints.dims_of(args[0])[-len(shape) :],
    )


@_sizes(F.group_norm, torch.group_norm)
def _group_count(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    groups = args[1] if len(args) > 1 else kwargs["num_groups"]
    group = (algebra.split(ints.dims_of(out)[1], int(groups)) or (1,))[0]
    if isinstance(groups, TrackedInt):
        yield groups, group
    else:
        # fewer groups of more channels each may fit by accident
        algebra.pin(group, "group_norm: the number of groups is written into the call")


ATTENTION = tuple(inspect.signature(F.multi_head_attention_forward).parameters)


@_sizes(F.multi_head_attention_forward)
def _head_sizes(ints: IntTracker, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Stated:
    given = {**dict(zip(ATTENTION, args, strict=False)), **kwargs}
    width, heads = ints.dims_of(given["query"])[-1], given["num_heads"]
    if given.get("use_separate_proj_weight"):
        rows = [ints.dims_of(given[f"{name}_proj_weight"])[0] for name in "qkv"]
    else:
        rows = [(algebra.split(ints.dims_of(given["in_proj_weight"])[0], 3) or (1, width))[1]]
    # it takes the head dimension from the queries, and asserts that all heads together have this width
    for each in rows:
        ints.unify(each, width)
    head = (algebra.split(width, int(heads)) or (1,))[0]
    if isinstance(heads, TrackedInt):
        yield heads, head
    else:
        algebra.pin(head, "multi_head_attention_forward: the number of heads is written into the call")
    if isinstance(given["embed_dim_to_check"], TrackedInt):
        yield given["embed_dim_to_check"], width
    else:
        algebra.pin(width, "multi_head_attention_forward: the width is written into the call")


SHAPE_OPERATORS = frozenset(
    {
        *SIZES,
        *(torch.Tensor.chunk, torch.chunk),
        *(torch.Tensor.repeat, torch.Tensor.tile, torch.tile, F.pad),
        *(torch.Tensor.repeat_interleave, torch.repeat_interleave),
    }
)
"""Functions that take explicit sizes; a wrong size changes the shape of their result."""


def line_of_code() -> str:
    """Return the running line of the network's code, as file and number; empty if the code is torch's own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _belongs(frame, "edakari.graph"):
        frame = frame.f_back
    while frame is not None and _belongs(frame, "torch"):
        frame = frame.f_back
    if frame is None or _belongs(frame, "edakari.graph"):
        return ""
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _belongs(frame: FrameType, package: str) -> bool:
    name: str = frame.f_globals.get("__name__", "")
    return name == package or name.startswith(package + ".")
