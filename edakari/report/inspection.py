"""Content of `edakari inspect`."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from edakari.core.graph import Graph, InputSpec
from edakari.core.layout import Layout, extent, to_json
from edakari.cost import COSTS, dense, uncounted
from edakari.graph import maskable_weights
from edakari.methods.tickets.gates import ungated
from edakari.report.pins import PinnedReason, pinned_by_reason
from edakari.report.structure import ModuleNode, structure

__all__ = ["Inspection", "as_json", "input_text", "inspection"]


@dc.dataclass(frozen=True)
class Inspection:
    """Prunable groups of a network, costs, and unprunable positions.

    Args:
        name: name of the network.
        graph: graph of the network.
        tree: tree of its modules.
        costs: costs by name, for the traced example.
        shares: for each group, the fraction of each cost that removing the complete group would save, 0 to 1.
        prunable: number of parameters that belong to a group.
        pinned: unprunable positions, by reason.
        uncounted: operators whose MACs are not counted, and their numbers of calls.
        ungated: groups without gates for a search, and why.
        maskable: names of the weights that are masked by default, when single weights are pruned.
    """

    name: str
    graph: Graph
    tree: ModuleNode
    costs: Mapping[str, float]
    shares: Mapping[str, Mapping[str, float]]
    prunable: int
    pinned: tuple[PinnedReason, ...]
    uncounted: Mapping[str, int]
    ungated: Mapping[str, str]
    maskable: tuple[str, ...]

    @property
    def maskable_count(self) -> int:
        """Number of single weights that are masked by default."""
        return sum(math.prod(extent(dim, {}) for dim in self.graph.layouts[name]) for name in self.maskable)


def inspection(name: str, graph: Graph, model: nn.Module) -> Inspection:
    """Collect the content of `edakari inspect`.

    Args:
        name: name of the network, for titles.
        graph: graph of the network.
        model: the network; its weights are not read.
    """
    whole = dense(graph)
    counts = {name: COSTS[name](graph) for name in whole}
    shares = {
        group.name: {
            key: 1.0 - float(count.total({group.name: 0})) / whole[key] if whole[key] else 0.0
            for key, count in counts.items()
        }
        for group in graph.groups
    }
    rest = counts["params"].total({group.name: 0 for group in graph.groups})
    return Inspection(
        name,
        graph,
        structure(graph, model),
        whole,
        shares,
        round(whole["params"] - rest),
        pinned_by_reason(graph),
        uncounted(graph),
        ungated(model, graph),
        maskable_weights(graph),
    )


def as_json(found: Inspection) -> dict[str, Any]:
    """Convert an inspection to plain values."""
    graph = found.graph
    return {
        "model": found.name,
        "input": _shapes(graph.inputs),
        "device": graph.device,
        "device_reason": graph.device_reason,
        "costs": dict(found.costs),
        "groups": [
            {
                **dc.asdict(group),
                "ungated": found.ungated.get(group.name, ""),
                "macs_share": found.shares[group.name]["macs"],
                "params_share": found.shares[group.name]["params"],
                "members": [{"tensor": member.tensor, "dim": member.dim} for member in graph.members(group.name)],
            }
            for group in graph.groups
        ],
        "branches": [{"name": branch.name, "modules": [*branch.modules, branch.exit]} for branch in graph.branches],
        "paths": [{"name": path.name, "modules": [*path.modules, path.exit]} for path in graph.paths],
        "unprunable": [dc.asdict(unprunable) for unprunable in graph.unprunable],
        "prunable_params": found.prunable,
        "pinned": [dc.asdict(reason) for reason in found.pinned],
        "uncounted": dict(found.uncounted),
        "maskable": list(found.maskable),
        "maskable_weights": found.maskable_count,
        "modules": _node(found.tree, found.costs),
    }


def input_text(inputs: InputSpec) -> str:
    """Format the shapes of an example: 1×3×224×224."""
    return _text(_shapes(inputs))


def _text(shapes: Any) -> str:
    match shapes:
        case [int(), *_]:
            return "×".join(map(str, shapes))
        case list():
            return ", ".join(map(_text, shapes))
        case dict():
            return ", ".join(f"{name} {_text(shape)}" for name, shape in shapes.items())
    return str(shapes)


def _shapes(inputs: Any) -> Any:
    """Shape of the example, or of each of its tensors if there are several."""
    match inputs:
        case {"tensor": [shape, _]}:
            return shape
        case {"tuple": items} | {"list": items}:
            return [_shapes(item) for item in items]
        case {"dict": items}:
            return {key: _shapes(item) for key, item in items.items()}
        case {"value": value}:
            return value
        case {"inputs": chosen, "outputs": _}:
            return _shapes(chosen)
    return inputs


def _node(node: ModuleNode, costs: Mapping[str, float]) -> dict[str, Any]:
    return {
        "path": node.path,
        "own": node.own,
        "class": node.kind,
        "detail": node.detail,
        "input_layout": _layout(node.input_layout),
        "output_layout": _layout(node.output_layout),
        "macs": node.macs,
        "macs_share": node.macs / costs["macs"] if costs["macs"] else 0.0,
        "params": node.params,
        "params_share": node.params / costs["params"] if costs["params"] else 0.0,
        "pins": [dc.asdict(pin) for pin in node.pins],
        "droppable": list(node.droppable),
        "children": [_node(child, costs) for child in node.children],
    }


def _layout(layout: Layout | None) -> Any:
    return None if layout is None else to_json(layout)
