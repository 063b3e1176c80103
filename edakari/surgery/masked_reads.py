"""How operators of a masked network ignore removed positions: one masked reading per operator that mixes positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from edakari.core import layout as layouts
from edakari.core.graph import Graph
from edakari.core.layout import Mask
from edakari.graph import algebra
from edakari.graph.algebra import DimAxis, DimExpr
from edakari.graph.axis_tracer import AxisTracer
from edakari.graph.freezing import Known, freeze, thaw
from edakari.graph.operators import named
from edakari.graph.rules import FUNCTIONS, RULES
from edakari.graph.rules_recurrent import weights_at
from edakari.graph.tracked_ints import Extent, IntTracker
from edakari.surgery.masked_ints import masked_int
from edakari.surgery.masked_quantized import QUANTIZED
from edakari.surgery.masked_reductions import REDUCTIONS

__all__ = ["READS", "MaskedReads"]

CONSTANTS = frozenset(
    {
        *(torch.zeros, torch.ones, torch.full, torch.Tensor.new_zeros, torch.Tensor.new_ones),
        *(torch.empty, torch.rand, torch.randn, torch.Tensor.new_empty),
        *(torch.Tensor.expand, torch.Tensor.broadcast_to, torch.broadcast_to, torch.Tensor.repeat),
    }
)
"""Functions whose result is constant, repeats a dimension, or is random."""


class MaskedReads:
    """State of one masked forward pass: the symbolic shape of every tensor, and which of its positions are removed.

    Args:
        graph: graph of the dense network.
        masks: which channels of each cut group are kept.
        stored: the network's parameters and buffers by name.
    """

    def __init__(self, graph: Graph, masks: Mapping[str, Mask], stored: Mapping[str, torch.Tensor]) -> None:
        self.masks = masks
        # The groups are those of the graph; rules refine only axes of new tensors, such as a constant that is added
        # later. The layouts in `graph.operators` cannot replace the rules: on another device, or for inputs of another
        # size or number, the pass runs other operators than the trace.
        self.groups = groups = {group.name: DimAxis(group.size, group=group.name) for group in graph.groups}
        dims = {
            id(tensor): [thaw(layout, groups) for layout in graph.layouts[name]]
            for name, tensor in stored.items()
            if name in graph.layouts  # selectors of tokens are not
        }
        names = {id(tensor): name for name, tensor in stored.items()}
        self.stored = dict(stored)  # alive while their ids are keys: a forward pass may let one of them go
        self.tracer = AxisTracer(dims, names, RULES, FUNCTIONS)
        self.layouts: Known = {axis: layouts.Axis(name, axis.size) for name, axis in groups.items()}
        notes = {key: thaw(layout, groups) for key, layout in graph.attributes.items()}
        self.ints = IntTracker(notes, self.tracer.peek, self.tracer.unify)
        self.in_attention = False

    def kept(self, dim: DimExpr) -> torch.Tensor | None:
        """Which positions of a dimension are kept, bool [positions]; None where all are."""
        if not any(axis.group in self.masks for axis in algebra.leaves(dim)):
            return None
        return torch.from_numpy(layouts.kept(freeze(dim, self.layouts), self.masks))

    def untraced(self) -> str | None:
        """Name of a cut group that this pass joined or split as the traced one did not; None if there is none.

        Another path through the network's code may do so. The masks then no longer describe the cut network.
        """
        for name, axis in self.groups.items():
            if axis.pinned is None and axis.value is None:
                continue
            parts = [leaf.group for leaf in algebra.leaves(axis)] or [""]
            if not all(self._masked_alike(name, part) for part in parts):
                return next(each for each in (name, *parts) if each in self.masks)
        return None

    def _masked_alike(self, left: str, right: str) -> bool:
        one, other = self.masks.get(left), self.masks.get(right)
        return one is other or (one is not None and other is not None and np.array_equal(one, other))

    def sized(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Note which dimensions the sizes of a new constant count."""
        if function in CONSTANTS:
            self.ints.used(function, args, kwargs, out)

    def shape(self, x: torch.Tensor) -> torch.Size:
        """A tensor's shape, in which sizes also know those of the cut network."""
        dims = self.tracer.peek(x)
        if all(isinstance(dim, int) for dim in dims):
            return x.shape
        return torch.Size([self._length(dim, size) for dim, size in zip(dims, x.shape, strict=True)])

    def _length(self, dim: DimExpr, size: int) -> int:
        keep = self.kept(dim)
        return size if keep is None else masked_int(size, int(keep.sum()), Extent(dim))

    def masked(self, x: torch.Tensor, positions: Sequence[int], fill: float = 0.0) -> torch.Tensor:
        """A tensor with the removed positions along some dimensions filled."""
        for position, keep in self.gone(x, positions).items():
            shape = [1] * x.dim()
            shape[position] = -1
            x = x.masked_fill(~keep.to(x.device).view(shape), fill)
        return x

    def gone(self, x: torch.Tensor, positions: Sequence[int]) -> dict[int, torch.Tensor]:
        """For each of these dimensions that has removed positions, which positions are kept."""
        dims = self.tracer.dims(x)
        found = {position % max(x.dim(), 1): self.kept(dims[position]) for position in positions if dims}
        return {position: keep for position, keep in found.items() if keep is not None}


Read = Callable[[MaskedReads, Any, Sequence[Any], Mapping[str, Any]], Any]


def _input(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(reads.masked(args[0], [1]), *args[1:], **kwargs)


def _last(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(reads.masked(args[0], [-1]), *args[1:], **kwargs)


def _scaled(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    # torch takes its own attention whole, so nobody sees that the factor comes from the width of a head
    x, factor = args[:2]
    if reads.in_attention and isinstance(factor, float) and math.isclose(factor, x.shape[-1] ** -0.5, rel_tol=1e-12):
        factor = float(reads.shape(x)[-1]) ** -0.5
    return func(x, factor, *args[2:], **kwargs)


def _added_product(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return _last(reads, lambda left, *rest, **options: func(args[0], left, *rest, **options), args[1:], kwargs)


ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def _attention(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    whole = func is F.scaled_dot_product_attention
    names = ATTENTION if whole else [argument.name for argument in func._schema.arguments]
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    query, key = named["query"], named["key"]
    width, tokens = reads.gone(query, [-1]), reads.gone(key, [-2])
    if width and named.get("scale") is None:
        named["scale"] = int(next(iter(width.values())).sum()) ** -0.5
    named["query"] = reads.masked(query, [-1])
    for keep in tokens.values():
        seen = keep.nonzero().view(-1).to(key.device)
        named.update({name: named[name].index_select(-2, seen) for name in ("key", "value")})
        for name in ("attn_mask", "attn_bias"):
            if isinstance(named.get(name), torch.Tensor) and named[name].shape[-1] > 1:
                named[name] = named[name].index_select(-1, seen)
    return func(**named)


def _flex_attention(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    # tokens stay whole, and the scale was computed by torch's own Python code, which saw what is kept
    return func(reads.masked(args[0], [-1]), *args[1:], **kwargs)


def _softmax(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(reads.masked(args[0], [args[1]], -torch.inf), *args[1:], **kwargs)


def _layer_norm(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, shape = args[0], args[1]
    over = list(range(x.dim() - len(shape), x.dim()))
    gone = reads.gone(x, over)
    if not gone:
        return func(*args, **kwargs)
    count = math.prod(int(gone[p].sum()) if p in gone else x.shape[p] for p in over)
    mean = reads.masked(x, over).sum(over, keepdim=True) / count
    centred = _like(reads, x, x - mean, over)
    rstd = torch.rsqrt((centred**2).sum(over, keepdim=True) / count + args[4])
    out = centred * rstd
    out = out if args[2] is None else out * args[2]
    return (out if args[3] is None else out + args[3]), mean, rstd


def _rms_norm(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, shape, weight, eps = args[:4]
    over = list(range(x.dim() - len(shape), x.dim()))
    gone = reads.gone(x, over)
    if not gone:
        return func(*args, **kwargs)
    count = math.prod(int(gone[p].sum()) if p in gone else x.shape[p] for p in over)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    rstd = torch.rsqrt((reads.masked(x, over) ** 2).sum(over, keepdim=True) / count + eps)
    return (x * rstd if weight is None else x * rstd * weight), rstd


def _like(reads: MaskedReads, x: torch.Tensor, other: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
    """Another tensor of the same shape, masked as the first one would be."""
    for position, keep in reads.gone(x, positions).items():
        shape = [1] * x.dim()
        shape[position] = -1
        other = other.masked_fill(~keep.to(x.device).view(shape), 0.0)
    return other


def _group_norm(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, weight, bias, _, _, _, groups, eps = args[:8]
    over = list(range(1, x.dim()))
    if not reads.gone(x, over):
        return func(*args, **kwargs)
    present_NGS = _like(reads, x, torch.ones_like(x), over).view(x.shape[0], groups, -1)
    count = present_NGS.sum(2, keepdim=True).clamp(min=1)
    x_NGS = reads.masked(x, over).reshape(x.shape[0], groups, -1)
    mean = x_NGS.sum(2, keepdim=True) / count
    centred = (x_NGS - mean) * present_NGS
    rstd = torch.rsqrt((centred**2).sum(2, keepdim=True) / count + eps)
    out = (centred * rstd).view(x.shape)
    shape = [1, -1, *([1] * (x.dim() - 2))]
    out = out if weight is None else out * weight.view(shape)
    return (out if bias is None else out + bias.view(shape)), mean.flatten(1), rstd.flatten(1)


def _batch_norm(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, weight, bias, _, _, training, _, eps = args[:8]
    over = [position for position in range(x.dim()) if position != 1]
    gone = reads.gone(x, over)
    if not training or not gone:
        return func(*args, **kwargs)
    # weights are standardised this way, and then the statistics run over input channels
    count = math.prod(int(gone[p].sum()) if p in gone else x.shape[p] for p in over)
    mean = reads.masked(x, over).sum(over, keepdim=True) / count
    rstd = torch.rsqrt((_like(reads, x, x - mean, over) ** 2).sum(over, keepdim=True) / count + eps)
    shape = [-1 if position == 1 else 1 for position in range(x.dim())]
    out = (x - mean) * rstd
    out = out if weight is None else out * weight.view(shape)
    return (out if bias is None else out + bias.view(shape)), mean.flatten(), rstd.flatten()


def _batch_norm_function(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    result = _batch_norm(reads, func, args, kwargs)
    return result[0] if isinstance(result, tuple) else result


def _weight_norm(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    direction, length = args[:2]
    along = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    over = [position for position in range(direction.dim()) if position != along]
    norm = torch.linalg.vector_norm(reads.masked(direction, over), dim=over, keepdim=True)
    return direction * (length / norm), norm


def _recurrent(reads: MaskedReads, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    # what a gone position of the state would pass on to the next step is masked where the weights read it
    index = weights_at(args)
    weights = [reads.masked(weight, [1]) if weight.dim() == 2 else weight for weight in args[index]]
    return func(reads.masked(args[0], [-1]), *args[1:index], weights, *args[index + 1 :], **kwargs)


def _of(read: Read, *families: str) -> dict[str, Read]:
    return dict.fromkeys(named(*families), read)


READS: dict[str, Read] = {
    **_of(_recurrent, "recurrent"),
    **_of(_input, "convolution", "deformable_convolution"),
    **_of(_last, "linear_function", "linear", "matrix_product", "batched_product", "grouped_product"),
    **_of(_added_product, "added_matrix_product", "added_batched_product"),
    **_of(_attention, "attention", "fused_attention"),
    **_of(_flex_attention, "flex_attention"),
    "aten.mul": _scaled,
    **_of(_softmax, "softmax"),
    **_of(_layer_norm, "layer_norm"),
    **_of(_rms_norm, "rms_norm"),
    **_of(_group_norm, "group_norm"),
    **_of(_batch_norm, "batch_norm"),
    **_of(_batch_norm_function, "batch_norm_function"),
    **_of(_weight_norm, "weight_norm"),
    **REDUCTIONS,
    **QUANTIZED,
}
"""Every operator that mixes positions of a prunable axis, with its masked reading."""
