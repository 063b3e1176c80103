"""What reductions, lookups and quantisation read of a network that is masked instead of cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

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
        argument: position of the one that says over which dimensions.
        numbering: the output that holds position numbers, which are given in the dense network's count.
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
        numbers = next(iter(kept.values()))
        if isinstance(out, torch.Tensor):
            return numbers[out]
        # a maximum of everything is a tensor by itself, and has no numbers
        return tuple(numbers[each] if spot == numbering else each for spot, each in enumerate(out))

    return read


def _everything(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return _kept(len(args) + 1)(reads, func, args, kwargs)


def _running(fill: float) -> Read:
    """Reads what is gone as what changes nothing."""

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


def _by_number(place: int) -> Read:
    """Numbers at positions that are gone may be anything, and no position may have them: they become 0."""

    def read(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        index = args[place]
        if isinstance(index, torch.Tensor):
            index = reads.masked(index, range(index.dim()))
        return func(*args[:place], index, *args[place + 1 :], **kwargs)

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
            place = position + len(shape) - tensor.dim()
            if len(keep) == next(iter(wide.values())).shape[place]:
                index = keep.nonzero().view(-1).to(tensor.device)
                wide = {key: each.index_select(place, index) for key, each in wide.items()}
    return func(*(wide[id(arg)] if isinstance(arg, torch.Tensor) else arg for arg in args), **kwargs)


def _distances(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(reads.masked(args[0], [-1]), reads.masked(args[1], [-1]), *args[2:], **kwargs)


def _bilinear(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(reads.masked(args[0], [-1]), reads.masked(args[1], [-1]), *args[2:], **kwargs)


def _as_it_is(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(*args, **kwargs)


REDUCTIONS: dict[str, Read] = {
    **{
        f"aten.{name}": _kept()
        for name in (
            *("sum", "nansum", "mean", "prod", "logsumexp", "count_nonzero", "any", "all", "amax", "amin", "aminmax"),
            *("var", "std", "var_mean", "std_mean"),
        )
    },
    "aten.histc": _everything,
    **{f"aten.{name}": _kept(2) for name in ("linalg_vector_norm", "norm")},
    **{f"aten.{name}": _kept(numbering=1) for name in ("max", "min", "median", "nanmedian", "mode")},
    **{f"aten.{name}": _kept(numbering=0) for name in ("argmax", "argmin")},
    **{f"aten.{name}": _running(0.0) for name in ("cumsum", "cumsum_")},
    **{f"aten.{name}": _running(1.0) for name in ("cumprod", "cumprod_")},
    **{f"aten.{name}": _running(-math.inf) for name in ("logcumsumexp", "cummax")},
    "aten.cummin": _running(math.inf),
    **{f"aten.{name}": _loss for name in ("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss")},
    **{f"aten.{name}": _loss for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits")},
    "aten.gather": _by_number(2),
    **{f"aten.scatter{kind}": _by_number(2) for kind in ("", "_", "_add", "_add_", "_reduce", "_reduce_")},
    "aten.embedding": _by_number(1),
    "aten._cdist_forward": _distances,
    "aten._euclidean_dist": _distances,
    "bilinear": _bilinear,
    "local_response_norm": _as_it_is,
}
"""Operators by name, and how each reads what is kept."""
