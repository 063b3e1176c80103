"""Cuts a network: smaller tensors, and module attributes that agree with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.graph import Graph
from edakari.core.layout import Fixed, Layout, Mask, extent, kept
from edakari.core.modules import modules_of
from edakari.core.space import Sizes
from edakari.graph import attention
from edakari.graph.dropped import without
from edakari.graph.module_attributes import Widths, mended, mended_inside, with_ints
from edakari.graph.shadow import stored_tensors

__all__ = ["cut", "indices_of", "taken"]

M = TypeVar("M", bound=nn.Module)


def cut(
    model: M,
    graph: Graph,
    masks: Mapping[str, Mask],
    dropped: Collection[str] = (),
    weights: Mapping[str, torch.Tensor] | None = None,
) -> M:
    """Copy a network without the removed channels, branches and paths.

    Args:
        model: network; it does not change.
        graph: graph of the network.
        masks: for each group that is cut, which of its channels are kept, bool [size].
        dropped: names of the dropped branches and paths.
        weights: for each parameter whose weights are masked, which of them stay, bool of its shape; the others become
            zeros before the cut.
    """
    with torch.inference_mode(False):  # the cut network must be trainable, even if it is cut during an evaluation
        small = copied(model, _cut_tensors(model, graph, masks, weights or {}))
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    _mend(small, graph, sizes)
    # outer ones come later, and include what was done to inner ones
    for branch in graph.droppable:
        if branch.name in dropped:
            without(small, branch, graph, sizes)
    return small


def _cut_tensors(
    model: nn.Module, graph: Graph, masks: Mapping[str, Mask], weights: Mapping[str, torch.Tensor]
) -> dict[int, torch.Tensor]:
    indices: dict[Layout, torch.Tensor | None] = {}
    smaller: dict[int, torch.Tensor] = {}
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    for name, tensor in stored_tensors(model).items():
        if name not in graph.layouts:
            continue  # left behind by a forward pass after the trace
        if tensor.is_meta:
            lengths = [extent(dim, sizes) for dim in graph.layouts[name]]
            small = torch.empty(lengths, dtype=tensor.dtype, device="meta")  # `new_empty` is slow on meta
        else:
            small = tensor.detach()
            chosen = indices_of(graph.layouts[name], masks, indices)
            if name in weights:
                small = small.masked_fill(~weights[name].to(small.device), 0)
            small = taken(small, chosen)
            if small.data_ptr() == tensor.data_ptr():
                small = small.clone()
        smaller[id(tensor)] = nn.Parameter(small, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else small
    return smaller


def indices_of(
    layouts: Sequence[Layout], masks: Mapping[str, Mask], known: dict[Layout, torch.Tensor | None]
) -> tuple[torch.Tensor | None, ...]:
    """Return the indices of the kept positions of each dimension; None if all are kept.

    Args:
        layouts: dimensions of a tensor.
        masks: for each group that is cut, which of its channels are kept, bool [size].
        known: results for other tensors, to which the new ones are added.
    """
    for layout in layouts:
        if layout not in known:
            keep = kept(layout, masks)
            known[layout] = None if keep.all() else torch.from_numpy(np.flatnonzero(keep))
    return tuple(known[layout] for layout in layouts)


def taken(tensor: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Return a tensor's entries at the indices of each dimension; the tensor itself if all are kept."""
    for dim, index in enumerate(indices):
        if index is not None:
            tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def _mend(small: nn.Module, graph: Graph, sizes: Sizes) -> None:
    touched = {path for path, _ in graph.attributes}
    changes: dict[int, bool] = {}  # by the layout's id: hashing a layout takes longer than comparing its extents
    for name, dims in graph.layouts.items():
        for dim in dims:
            if id(dim) not in changes:
                changes[id(dim)] = not isinstance(dim, Fixed) and extent(dim, sizes) != extent(dim, {})
            if changes[id(dim)]:
                touched.update(_owners(name))
                break
    for path, module in modules_of(small):
        if path not in touched:
            continue
        if isinstance(module, nn.MultiheadAttention) and path:
            parent, _, child = path.rpartition(".")
            setattr(small.get_submodule(parent), child, attention.slim(module, Widths(graph, path, sizes)))
            continue
        widths = Widths(graph, path, sizes)
        for name, value in mended(module, widths).items():
            setattr(module, name, value)
        with_ints(module, mended_inside(module, widths))
    for _, module in modules_of(small):
        if isinstance(module, nn.TransformerEncoder) and any(map(attention.is_slim, module.modules())):
            module.use_nested_tensor = False  # only torch's own attention takes such tensors


def _owners(name: str) -> Iterator[str]:
    """Paths of the modules that contain a parameter, from its own up to the network."""
    while name:
        name = name.rpartition(".")[0]
        yield name
