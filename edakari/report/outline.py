"""A short tree of modules: modules without cost are omitted, norms join their layers, equal siblings fold."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Sequence
from typing import Any

from edakari.core.layout import Axis, Concat, Fixed, Layout, Product, axes
from edakari.report.pins import Pin
from edakari.report.structure import ModuleNode

__all__ = ["condensed", "group_names", "name_in", "pin_lines", "runs"]


def condensed(node: ModuleNode) -> ModuleNode:
    """Remove modules without costs and unprunable positions from a tree, and unnecessary levels.

    A norm joins the layer before it that has the same width; a module with one child is replaced by that child.
    """
    children = [condensed(child) for child in node.children]
    children = _joined(child for child in children if child.macs or child.params or child.pins)
    if node.path and len(children) == 1:
        (only,) = children
        droppable = tuple(dict.fromkeys((*node.droppable, *only.droppable)))
        if only.own:
            only = dc.replace(
                only,
                input_layout=node.input_layout or only.input_layout,
                output_layout=node.output_layout or only.output_layout,
            )
            return dc.replace(only, own="", kind=node.kind, detail=node.detail, droppable=droppable)
        if only.container and not node.container:
            return dc.replace(node, container=True, children=only.children, droppable=droppable)
        return dc.replace(only, droppable=droppable)
    return dc.replace(node, children=tuple(children))


def runs(nodes: Iterable[ModuleNode]) -> tuple[tuple[ModuleNode, ...], ...]:
    """Group consecutive siblings that are equal.

    Two siblings are equal if they have the same classes, widths and costs, groups of their own at the same positions,
    and the same shared groups.
    """
    found: list[list[ModuleNode]] = []
    before: tuple[Any, ...] = ()
    previous = ""
    for node in nodes:
        # a block may consume its own groups, or the output of the previous block
        signatures = (_signature(node, node.path, ""), _signature(node, node.path, previous))
        if any(one == other for one, other in zip(signatures, before, strict=False)):
            found[-1].append(node)
        else:
            found.append([node])
        previous, before = node.path, signatures
    return tuple(tuple(run) for run in found)


def name_in(node: ModuleNode, parent: str) -> str:
    """Return the name of a node relative to its parent's path."""
    if node.own:
        return node.own
    name = node.path[len(parent) + 1 :] if parent and node.path.startswith(f"{parent}.") else node.path
    return " + ".join([name, *(path.rpartition(".")[2] for path in node.joined)])


def group_names(layout: Layout, parent: str) -> str:
    """Write the groups of a layout in short form: a dot means the parent's path, and many groups are counted."""
    names = list(dict.fromkeys(axis.group for axis in axes(layout)))
    if not names:
        return ""
    first = f".{names[0][len(parent) + 1 :]}" if parent and names[0].startswith(f"{parent}.") else names[0]
    stem = names[0].partition(":")[0]
    if len(names) > 1 and all(name.startswith(f"{stem}:") for name in names):
        return " × ".join([first, *(name[len(stem) + 1 :] for name in names[1:])])
    return first if len(names) == 1 else f"{first} + {len(names) - 1} more"


def pin_lines(node: ModuleNode) -> list[str]:
    """Describe unprunable positions of a module's own parameters: one line for each side and reason."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    indices: dict[tuple[str, str], dict[str, None]] = {}
    for pin in node.pins:
        key = _side(pin, node.kind), pin.reason
        tensors = found.setdefault(key, {})
        tensors[pin.tensor] = tensors.get(pin.tensor, 0) + pin.size
        if pin.operator and pin.module not in (node.path, *node.joined):
            indices.setdefault(key, {})[pin.module or "the network"] = None
    lines = []
    for (side, reason), tensors in found.items():
        where = list(indices.get((side, reason), ()))
        more = f" and {len(where) - 3} more" if len(where) > 3 else ""
        index = f" (in {', '.join(where[:3])}{more})" if where else ""
        lines.append(f"{side}: {max(tensors.values())} left alone, {reason}{index}")
    return lines


def _side(pin: Pin, kind: str) -> str:
    """Return the side of a module, input or output, of a parameter's dimension."""
    last = pin.tensor.rpartition(".")[2]
    if pin.dim > 1 or last not in ("weight", "bias"):
        return f"{last}[{pin.dim}]"
    turned = last == "weight" and kind.startswith("ConvTranspose")
    return "out" if (pin.dim == 0) != turned else "in"


def _joined(children: Iterable[ModuleNode]) -> list[ModuleNode]:
    found: list[ModuleNode] = []
    for child in children:
        if found and _is_norm_of(child, found[-1]):
            layer = found.pop()
            child = dc.replace(
                layer,
                params=layer.params + child.params,
                pins=(*layer.pins, *child.pins),
                joined=(*layer.joined, child.path),
            )
        found.append(child)
    return found


def _is_norm_of(norm: ModuleNode, layer: ModuleNode) -> bool:
    leaves = not (norm.children or layer.children or norm.own or layer.own)
    through = norm.input_layout is not None and norm.input_layout == norm.output_layout == layer.output_layout
    return leaves and through and layer.macs > 0 and not norm.macs


def _signature(node: ModuleNode, base: str, previous: str) -> Any:
    """Signature that is the same for equal siblings: paths are relative to `base` or to the previous sibling."""

    def relative(path: str) -> str:
        for sign, start in ((".", base), ("^", previous)):
            if start and (path == start or path.startswith((f"{start}.", f"{start}:"))):
                return sign + path[len(start) :]
        return path

    def shape(layout: Layout | None) -> Any:
        match layout:
            case Axis(group, size):
                return relative(group), size
            case Product(parts) | Concat(parts):
                return type(layout).__name__, tuple(shape(part) for part in parts)
            case Fixed(size):
                return size
        return None

    return (
        (node.own, node.kind, node.detail, node.macs, node.params, node.droppable),
        (shape(node.input_layout), shape(node.output_layout)),
        tuple(path.rpartition(".")[2] for path in node.joined),
        tuple((pin.tensor.rpartition(".")[2], pin.dim, pin.size, pin.reason) for pin in node.pins),
        "" if node.path == base else relative(node.path),
        _below(node.children, base, previous),
    )


def _below(children: Sequence[ModuleNode], base: str, previous: str) -> tuple[Any, ...]:
    return tuple(_signature(child, base, previous) for child in children)
