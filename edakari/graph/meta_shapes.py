"""Shapes of the results of common operators and functions, without torch's decompositions.

Each shortcut returns what the operator returns for contiguous meta tensors: shape, type and order in memory. If its
arguments are unusual, or do not fit together, it returns None. The caller then runs the operator itself, which raises
the error that users know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from edakari.graph.operators import named

__all__ = ["SHORTCUTS", "Shortcut"]

Args = Sequence[Any]
Kwargs = Mapping[str, Any]
Shortcut = Callable[[Args, Kwargs], Any]


def _empty(shape: Sequence[int], x: torch.Tensor) -> torch.Tensor:
    # `empty_like` and `new_empty` are slow on meta
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _plain(*tensors: Any) -> bool:
    """Whether these are contiguous meta tensors of one floating-point type."""
    return _alike(*tensors) and all(x.is_contiguous() for x in tensors)


def _alike(*tensors: Any) -> bool:
    """Whether these are meta tensors of one floating-point type."""
    dtype = tensors[0].dtype
    return bool(dtype.is_floating_point) and all(
        isinstance(x, torch.Tensor) and x.is_meta and x.dtype == dtype for x in tensors
    )


def _has_shape(tensor: torch.Tensor | None, shape: Sequence[int]) -> bool:
    return tensor is None or tuple(tensor.shape) == tuple(shape)


def _broadcast(left: Sequence[int], right: Sequence[int]) -> list[int] | None:
    """Shape of two broadcast tensors; None if they do not fit."""
    shape = list(left if len(left) >= len(right) else right)
    for index in range(-min(len(left), len(right)), 0):
        a, b = left[index], right[index]
        if a != b and a != 1 and b != 1:
            return None
        shape[index] = b if a == 1 else a
    return shape


def _unary(args: Args, kwargs: Kwargs) -> Any:
    x = args[0]
    return _empty(x.shape, x) if _plain(x) else None


def _power(args: Args, kwargs: Kwargs) -> Any:
    return _unary(args, kwargs) if type(args[1]) in (int, float) else None


def _softmax(args: Args, kwargs: Kwargs) -> Any:
    to_float = args[2] if len(args) > 2 else True
    return None if to_float or not -args[0].dim() <= args[1] < args[0].dim() else _unary(args, kwargs)


def _unary_in_place(args: Args, kwargs: Kwargs) -> Any:
    return args[0]


def _clone(args: Args, kwargs: Kwargs) -> Any:
    x, order = args[0], kwargs.get("memory_format") or torch.preserve_format
    if order == torch.contiguous_format or (order == torch.preserve_format and x.is_contiguous()):
        return _empty(x.shape, x)
    return torch.empty_like(x, memory_format=order)


def _binary(args: Args, kwargs: Kwargs) -> Any:
    x, y = args[:2]
    if type(y) in (int, float):
        return _empty(x.shape, x) if _plain(x) else None
    if not _plain(x, y):
        return None
    shape = x.shape if x.shape == y.shape else _broadcast(x.shape, y.shape)
    return None if shape is None else _empty(shape, x)


def _binary_in_place(args: Args, kwargs: Kwargs) -> Any:
    x, y = args[:2]
    if type(y) in (int, float):
        return x if x.is_floating_point() else None
    return x if _plain(x, y) and _broadcast(x.shape, y.shape) == list(x.shape) else None


def _total(args: Args, kwargs: Kwargs) -> Any:
    """Sums and the like, over dimensions in a list."""
    x, dims, keeps = (*args, None, None, None)[:3]
    usual = len(args) <= 3 and kwargs.get("dtype") is None
    return _reduced(x, dims, kwargs.get("keepdim") if keeps is None else keeps) if usual else None


def _moment(args: Args, kwargs: Kwargs) -> Any:
    return _reduced(args[0], args[1], kwargs.get("keepdim")) if len(args) == 2 else None


def _two_moments(args: Args, kwargs: Kwargs) -> Any:
    found = _moment(args, kwargs)
    return None if found is None else (found, _empty(found.shape, found))


def _reduced(x: torch.Tensor, dims: Any, keeps: bool | None) -> torch.Tensor | None:
    if not isinstance(dims, list | tuple) or not dims or not _plain(x) or 0 in x.shape:
        return None
    rank = x.dim()
    gone = {dim % rank for dim in dims if -rank <= dim < rank}
    if len(gone) < len(dims):
        return None
    if keeps:
        return _empty([1 if dim in gone else length for dim, length in enumerate(x.shape)], x)
    return _empty([length for dim, length in enumerate(x.shape) if dim not in gone], x)


def _joined(args: Args, kwargs: Kwargs) -> Any:
    parts, along = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    first = parts[0]
    rank = first.dim()
    if not _plain(*parts) or not -rank <= along < rank or any(part.dim() != rank for part in parts):
        return None
    along %= rank
    shape = list(first.shape)
    shape[along] = sum(part.shape[along] for part in parts)
    rest = [*first.shape[:along], *first.shape[along + 1 :]]
    fits = all([*part.shape[:along], *part.shape[along + 1 :]] == rest for part in parts)
    return _empty(shape, first) if fits else None


def _stacked(args: Args, kwargs: Kwargs) -> Any:
    parts, along = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    first = parts[0]
    rank = first.dim() + 1
    if not _plain(*parts) or not -rank <= along < rank or any(part.shape != first.shape for part in parts):
        return None
    shape = list(first.shape)
    shape.insert(along % rank, len(parts))
    return _empty(shape, first)


def _rolled(args: Args, kwargs: Kwargs) -> Any:
    x, (shifts, dims) = args[0], (*args[1:], (), ())[:2]
    known = isinstance(shifts, list | tuple) and isinstance(dims, list | tuple) and len(shifts) == len(dims) > 0
    return _unary(args, kwargs) if known and all(-x.dim() <= dim < x.dim() for dim in dims) else None


def _batch_norm(args: Args, kwargs: Kwargs) -> Any:
    x = _normalised_channels(args[0], args[1:5])
    return None if x is None else (x, _empty((0,), x), _empty((0,), x))


def _batch_norm_function(args: Args, kwargs: Kwargs) -> Any:
    training = args[5] if len(args) > 5 else kwargs.get("training", False)
    parameters = [*args[1:5], *map(kwargs.get, ("running_mean", "running_var", "weight", "bias"))]
    found = [each for each in parameters if each is not None]
    if training or len(found) < 4:
        return None  # statistics need more than one value per channel
    return _normalised_channels(args[0], found)


def _normalised_channels(x: torch.Tensor, parameters: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    if not _plain(x) or x.dim() < 2 or not all(_has_shape(each, x.shape[1:2]) for each in parameters):
        return None
    return _empty(x.shape, x)


def _convolution(args: Args, kwargs: Kwargs) -> Any:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args[:9]
    if (
        transposed
        or not x.is_contiguous()
        or x.dtype != weight.dtype
        or x.shape[1] != weight.shape[1] * groups
        or weight.shape[0] % groups
    ):
        return None
    space = []
    for index in range(x.dim() - 2):
        step, pad, wide = (each[index % len(each)] for each in (stride, padding, dilation))
        space.append((x.shape[index + 2] + 2 * pad - wide * (weight.shape[index + 2] - 1) - 1) // step + 1)
    if min(space, default=1) < 1 or not _has_shape(bias, weight.shape[:1]):
        return None
    return _empty((x.shape[0], weight.shape[0], *space), x)


def _upsample(args: Args, kwargs: Kwargs) -> Any:
    x, sizes = args[0], args[1] if len(args) > 1 else None
    if not isinstance(sizes, list | tuple) or len(sizes) != x.dim() - 2 or not _plain(x):
        return None
    return _empty((*x.shape[:2], *sizes), x)


def _layer_norm(args: Args, kwargs: Kwargs) -> Any:
    found = _layer_norm_function(args[:4], kwargs)
    if found is None:
        return None
    count = len(args[1])
    shape = [*found.shape[: found.dim() - count], *[1] * count]
    return found, _empty(shape, found), _empty(shape, found)


def _layer_norm_function(args: Args, kwargs: Kwargs) -> Any:
    """Layer norms and RMS norms; what follows the normalised shape are weights and a number."""
    x, shape = args[0], args[1] if len(args) > 1 else ()
    fits = 0 < len(shape) <= x.dim() and tuple(x.shape[x.dim() - len(shape) :]) == tuple(shape)
    weights = [each for each in (*args[2:], *kwargs.values()) if isinstance(each, torch.Tensor)]
    if not fits or not _plain(x) or not all(_has_shape(each, shape) and each.dtype == x.dtype for each in weights):
        return None
    return _empty(x.shape, x)


def _group_norm(args: Args, kwargs: Kwargs) -> Any:
    x, groups = args[0], args[6]
    if not _plain(x) or x.dim() < 2 or x.shape[1] % groups or [*args[3:5]] != [*x.shape[:2]]:
        return None
    if math.prod(x.shape[2:]) != args[5] or not all(_has_shape(each, x.shape[1:2]) for each in args[1:3]):
        return None
    statistics = (x.shape[0], groups)
    return _empty(x.shape, x), _empty(statistics, x), _empty(statistics, x)


def _linear(args: Args, kwargs: Kwargs) -> Any:
    x = args[0]
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    fits = weight.dim() == 2 and x.dim() > 0 and x.shape[-1] == weight.shape[1] and x.dtype == weight.dtype
    return _empty([*x.shape[:-1], weight.shape[0]], x) if fits and _has_shape(bias, weight.shape[:1]) else None


def _product(args: Args, kwargs: Kwargs) -> Any:
    """Products of matrices, or of as many on both sides."""
    left, right = args[:2]
    rank = left.dim()
    if rank not in (2, 3) or right.dim() != rank or left.dtype != right.dtype or not right.is_meta:
        return None
    if left.shape[-1] != right.shape[-2] or left.shape[:-2] != right.shape[:-2]:
        return None
    return _empty([*left.shape[:-1], right.shape[-1]], left)


def _added_product(args: Args, kwargs: Kwargs) -> Any:
    found = _product(args[1:], {}) if len(args) == 3 and args[0].dtype == args[1].dtype else None
    fits = found is not None and _broadcast(args[0].shape, found.shape) == list(found.shape)
    return found if fits else None


def _attention(args: Args, kwargs: Kwargs) -> Any:
    if len(args) < 3 or args[0].shape[-1] != args[1].shape[-1] or args[1].shape[-2] != args[2].shape[-2]:
        return None
    if args[0].shape[:-2] != args[1].shape[:-2] or args[1].shape[:-2] != args[2].shape[:-2]:
        return None
    scores = [*args[0].shape[:-1], args[1].shape[-2]]
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    if mask is not None and _broadcast(mask.shape, scores) != scores:
        return None
    return _empty([*args[0].shape[:-1], args[2].shape[-1]], args[0])


def _recurrent(args: Args, kwargs: Kwargs) -> Any:
    """Recurrent layers over sequences of equal lengths; packed ones have the weights elsewhere."""
    if len(args) != 9 or not isinstance(args[2], list):
        return None
    x, (states, weights, has_biases, layers, _, _, bidirectional, batch_first) = args[0], args[1:]
    states, directions = states if isinstance(states, tuple | list) else (states,), 2 if bidirectional else 1
    count = layers * directions
    each = len(weights) // count
    projected = each == (5 if has_biases else 3)
    shown, hidden = states[0].shape[-1], states[-1].shape[-1]
    batch = x.shape[0 if batch_first else 1]
    if x.dim() != 3 or not _alike(x, *states, *weights) or (shown != hidden and not projected):
        return None
    entering, gates = x.shape[-1], weights[0].shape[0]
    gate_counts = (4,) if len(states) == 2 else (1, 3)
    for start in range(0, len(weights), each):
        if start == each * directions:
            entering = shown * directions
        own = [
            (gates, entering),
            (gates, shown),
            *[(gates,)] * (2 if has_biases else 0),
            *[(shown, hidden)] * projected,
        ]
        if [tuple(weight.shape) for weight in weights[start : start + each]] != own:
            return None
    if gates % hidden or gates // hidden not in gate_counts or len(weights) != each * count:
        return None
    if any(tuple(state.shape) != (count, batch, width) for state, width in zip(states, (shown, hidden), strict=False)):
        return None
    steps = x.shape[1 if batch_first else 0]
    out = _empty((steps, batch, shown * directions), x)
    return (out.transpose(0, 1) if batch_first else out, *(_empty(state.shape, x) for state in states))


UNARY = (
    *named("activation", "gate", "negation"),
    *("aten.rsqrt", "aten.sqrt", "aten.exp", "aten.log", "aten.sin", "aten.cos", "aten.erf", "aten.abs"),
)
BINARY = (*named("addition", "subtraction", "multiplication", "division"), "aten.rsub")

SHORTCUTS: dict[str, Shortcut] = {
    **{name: _unary_in_place if name.endswith("_") else _unary for name in UNARY},
    **{name: _binary_in_place if name.endswith("_") else _binary for name in BINARY},
    "aten.pow": _power,
    "aten._softmax": _softmax,
    **dict.fromkeys(named("total"), _total),
    **dict.fromkeys(named("moment"), _moment),
    **dict.fromkeys(named("two_moments"), _two_moments),
    **dict.fromkeys(named("copy"), _clone),
    **dict.fromkeys(named("concatenation"), _joined),
    **dict.fromkeys(named("stack"), _stacked),
    **dict.fromkeys(named("order"), _rolled),
    **dict.fromkeys(named("batch_norm"), _batch_norm),
    **dict.fromkeys(named("batch_norm_function"), _batch_norm_function),
    **dict.fromkeys(named("layer_norm"), _layer_norm),
    **dict.fromkeys(named("composite_norm"), _layer_norm_function),
    **dict.fromkeys(named("group_norm"), _group_norm),
    **dict.fromkeys(named("convolution"), _convolution),
    **dict.fromkeys(named("upsample"), _upsample),
    **dict.fromkeys(named("linear_function"), _linear),
    **dict.fromkeys(named("matrix_product", "batched_product"), _product),
    **dict.fromkeys(named("added_matrix_product", "added_batched_product"), _added_product),
    **dict.fromkeys(named("attention"), _attention),
    **dict.fromkeys(named("recurrent"), _recurrent),
}
"""Shortcut of each operator or function, by its full name."""
