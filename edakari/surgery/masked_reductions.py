"""Masked readings of reductions, lookups, losses and distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from edakari.graph.operators import named

if TYPE_CHECKING:
    from edakari.surgery.masked_reads import MaskedReads

__all__ = ["REDUCTIONS"]

Read = Callable[["MaskedReads", Any, Sequence[Any], Mapping[str, Any]], Any]


def over(args: Sequence[Any], kwargs: Mapping[str, Any], index: int) -> list[int]:
    """The dimensions that a reduction runs over, given by position or by name; all where none is given."""
    chosen = args[index] if len(args) > index else kwargs.get("dim")
    if chosen is None or (isinstance(chosen, Sequence) and not chosen):
        return list(range(args[0].dim()))
    return [chosen] if isinstance(chosen, int) else list(chosen)


def _kept(argument: int = 1, numbering: int | None = None) -> Read:
    """Reads only what is kept.

    Args:
        argument: index of the argument that holds the dimensions.
        numbering: index of the output that holds positions, which are returned as in the dense network.
    """

    def read(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        x = args[0]
        gone = reads.gone(x, over(args, kwargs, argument))
        kept = {position: keep.nonzero().view(-1).to(x.device) for position, keep in gone.items()}
        for position, index in kept.items():
            x = x.index_select(position, index)
        out = func(x, *args[1:], **kwargs)
        if numbering is None or not kept:
            return out
        dense_positions = next(iter(kept.values()))
        if isinstance(out, torch.Tensor):
            return dense_positions[out]
        # a maximum of everything is a tensor by itself, and has no numbers
        return tuple(dense_positions[each] if index == numbering else each for index, each in enumerate(out))

    return read


def _everything(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return _kept(len(args) + 1)(reads, func, args, kwargs)


def _running(fill: float) -> Read:
    """Reads removed positions as the neutral element."""

    def read(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        x = args[0]
        along = [args[1] if len(args) > 1 else kwargs["dim"]] if x.dim() else []
        if not reads.gone(x, along):
            return func(*args, **kwargs)
        seen = reads.masked(x, along, fill if x.is_floating_point() or math.isfinite(fill) else _bound(x.dtype, fill))
        out = func(seen, *args[1:], **kwargs)
        return x.copy_(out) if out is seen else out

    return read


def _bound(dtype: torch.dtype, fill: float) -> float:
    limits = torch.iinfo(dtype)
    return limits.min if fill < 0 else limits.max


def _by_number(argument: int) -> Read:
    """Indices at removed positions may be out of range, so they are read as 0."""

    def read(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        index = args[argument]
        if isinstance(index, torch.Tensor):
            index = reads.masked(index, range(index.dim()))
        return func(*args[:argument], index, *args[argument + 1 :], **kwargs)

    return read


def _loss(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    out = func(*args, **kwargs)
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))  # type: ignore[no-untyped-call]
    if out.dim() == len(shape):
        return out
    wide = {id(tensor): tensor.expand(shape) for tensor in tensors}
    for tensor in tensors:
        for position, keep in reads.gone(tensor, range(tensor.dim())).items():
            dim = position + len(shape) - tensor.dim()
            if len(keep) == next(iter(wide.values())).shape[dim]:
                index = keep.nonzero().view(-1).to(tensor.device)
                wide = {key: each.index_select(dim, index) for key, each in wide.items()}
    return func(*(wide[id(arg)] if isinstance(arg, torch.Tensor) else arg for arg in args), **kwargs)


def _distances(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(reads.masked(args[0], [-1]), reads.masked(args[1], [-1]), *args[2:], **kwargs)


def _bilinear(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(reads.masked(args[0], [-1]), reads.masked(args[1], [-1]), *args[2:], **kwargs)


def _as_it_is(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(*args, **kwargs)


def _of(read: Read, *families: str) -> dict[str, Read]:
    return dict.fromkeys(named(*families), read)


REDUCTIONS: dict[str, Read] = {
    **_of(_kept(), "total", "moment", "two_moments", "reduction"),
    **_of(_everything, "histogram"),
    **_of(_kept(2), "vector_norm"),
    **_of(_kept(numbering=1), "extremum"),
    **_of(_kept(numbering=0), "extreme_position"),
    **_of(_running(0.0), "running_sum"),
    **_of(_running(1.0), "running_product"),
    **_of(_running(-math.inf), "running_logsumexp", "running_maximum"),
    **_of(_running(math.inf), "running_minimum"),
    **_of(_loss, "loss"),
    **_of(_by_number(2), "gather", "scatter"),
    **_of(_by_number(1), "embedding"),
    **_of(_distances, "distance"),
    **_of(_bilinear, "bilinear"),
    **_of(_as_it_is, "response_norm"),
}
"""Operators by name, with their masked readings."""
