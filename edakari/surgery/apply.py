"""`apply`: a plan and a network in, a new and really smaller network out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import Mask, extent, kept
from edakari.core.plan import KeepChannels, Plan
from edakari.core.space import Sizes
from edakari.errors import ModelError, PlanError
from edakari.graph import call, copied, example_for, graph_of, quick_meta, shadow_of, stored_tensors
from edakari.surgery import attention
from edakari.surgery.attributes import Widths, mended

__all__ = ["apply", "checked_graph", "masks_of"]


def apply(plan: Plan, model: nn.Module) -> nn.Module:
    """Carry out a plan.

    Args:
        plan: made for this network.
        model: the dense network; stays as it is.

    Returns:
        A new module with the kept weights, on the same device, in the same training mode; it shares no storage with
        `model`. It has run once on tensors without data, so its shapes fit.

    Raises:
        PlanError: the plan was made for another network, or the cut network does not run; says where.
    """
    graph = checked_graph(plan, model)
    sizes = plan.sizes()
    small = copied(model, _cut_tensors(model, graph, masks_of(plan, graph)))
    _mend(small, graph, sizes)
    verify_shapes(small, graph, sizes)
    return small


def checked_graph(plan: Plan, model: nn.Module) -> Graph:
    """The graph of a network, if the plan was made for it.

    Raises:
        PlanError: it was made for another one, or edits what the network does not have.
    """
    graph = graph_of(model, plan.inputs)
    if graph.fingerprint != plan.fingerprint:
        raise PlanError(
            f"the plan was made for another network than this {type(model).__name__}: its fingerprint is "
            f"{plan.fingerprint[:12]}, the network's is {graph.fingerprint[:12]}. Build the network with the options "
            "that it had when the plan was made."
        )
    for edit in plan.edits:
        if not isinstance(edit, KeepChannels):
            raise PlanError(f"this edakari cannot carry out the edit {type(edit).__name__} of the plan: {edit}")
        if edit.group not in graph:
            raise PlanError(f"the plan cuts group {edit.group!r}, which the network does not have")
        if edit.indices[-1] >= graph[edit.group].size:
            raise PlanError(
                f"the plan keeps coordinate {edit.indices[-1]} of group {edit.group!r}, which has "
                f"{graph[edit.group].size}"
            )
    return graph


def masks_of(plan: Plan, graph: Graph) -> dict[str, Mask]:
    """Which coordinates of each cut group a plan keeps."""
    masks: dict[str, Mask] = {}
    for edit in plan.edits:
        if isinstance(edit, KeepChannels):
            mask = np.zeros(graph[edit.group].size, dtype=np.bool_)
            mask[list(edit.indices)] = True
            masks[edit.group] = mask
    return masks


def _cut_tensors(model: nn.Module, graph: Graph, masks: Mapping[str, Mask]) -> dict[int, torch.Tensor]:
    indices: dict[Any, torch.Tensor | None] = {}
    cut: dict[int, torch.Tensor] = {}
    for name, tensor in stored_tensors(model).items():
        small = tensor.detach()
        for dim, layout in enumerate(graph.layouts[name]):
            if layout not in indices:
                keep = kept(layout, masks)
                indices[layout] = None if keep.all() else torch.from_numpy(np.flatnonzero(keep))
            index = indices[layout]
            if index is not None:
                small = small.index_select(dim, index.to(small.device))
        if small.data_ptr() == tensor.data_ptr():
            small = small.clone()
        cut[id(tensor)] = nn.Parameter(small, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else small
    return cut


def _mend(small: nn.Module, graph: Graph, sizes: Sizes) -> None:
    touched = {
        name.rpartition(".")[0]
        for name, dims in graph.layouts.items()
        if any(extent(d, sizes) != extent(d, {}) for d in dims)
    }
    for path, module in list(small.named_modules()):
        if not any(path == "" or owner == path or owner.startswith(path + ".") for owner in touched):
            continue
        if isinstance(module, nn.MultiheadAttention) and path:
            parent, _, child = path.rpartition(".")
            setattr(small.get_submodule(parent), child, attention.slim(module, Widths(graph, path, sizes)))
            continue
        for name, value in mended(module, Widths(graph, path, sizes)).items():
            setattr(module, name, value)


def verify_shapes(small: nn.Module, graph: Graph, sizes: Sizes) -> None:
    """Run a cut network on the traced example and compare what goes in and out of each module with the plan.

    Raises:
        PlanError: a module fails, or its tensors have other shapes than the plan says.
    """
    shadow = shadow_of(small, graph.device)
    expected: dict[str, list[Any]] = {}
    for entry in graph.calls:
        expected.setdefault(entry.module, []).append(entry)
    watch = _ShapeWatch(expected, sizes)
    for path, module in shadow.named_modules():
        module.register_forward_pre_hook(watch.enter(path))
        module.register_forward_hook(watch.leave(path))
    try:
        with quick_meta():
            call(shadow, example_for(small, graph.inputs, graph.device))
    except ModelError as error:
        raise PlanError(
            f"the cut network fails in module {watch.running or 'the network itself'!r}: {error.__cause__ or error}. "
            "Its code holds a width that edakari does not know of: tell it by @edakari.surgery.attributes, or leave "
            "its groups out."
        ) from error


class _ShapeWatch:
    def __init__(self, expected: Mapping[str, list[Any]], sizes: Sizes) -> None:
        self.expected = expected
        self.sizes = sizes
        self.count: dict[str, int] = {}
        self.stack: list[str] = []

    @property
    def running(self) -> str:
        return self.stack[-1] if self.stack else ""

    def enter(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            self.stack.append(path)
            self._compare(path, args, "inputs")

        return hook

    def leave(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._compare(path, output, "outputs")
            self.count[path] = self.count.get(path, 0) + 1
            self.stack.pop()

        return hook

    def _compare(self, path: str, tree: Any, side: str) -> None:
        entries = self.expected.get(path, [])
        if self.count.get(path, 0) >= len(entries):
            return
        layouts = getattr(entries[self.count.get(path, 0)], side)
        leaves = torch.utils._pytree.tree_leaves(tree)
        found = [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor)]
        wanted = [tuple(extent(dim, self.sizes) for dim in dims) for dims in layouts]
        if found != wanted:
            raise PlanError(
                f"module {path or 'the network itself'!r} has {side} of shape {found} after the cut, where the plan "
                f"says {wanted}. Its code, or that of what comes before it, holds a width that edakari does not know "
                "of: tell it by @edakari.surgery.attributes, or leave its groups out."
            )
