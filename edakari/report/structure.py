"""A network's modules as a tree, with widths, groups, costs and unprunable positions."""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from edakari.core.graph import Graph, ModuleCall, Operator
from edakari.core.layout import Fixed, Layout, Product, axes, extent
from edakari.graph.residuals import residual_sums
from edakari.report.pins import Pin, parameter_sizes, pins_of

__all__ = ["ModuleNode", "Shortcut", "shortcuts", "structure"]

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dc.dataclass(frozen=True, slots=True)
class ModuleNode:
    """A module, or the part that a module with children computes itself; costs include all nodes below.

    Args:
        path: dotted path; "" is the network.
        own: parameters or operators that a module with children has itself; "" for other nodes.
        kind: name of its class.
        detail: kernel size, stride and grouping of a convolution.
        container: whether it only holds its children, as `nn.Sequential` does.
        input_layout: layout of the input width; None if it is unknown.
        output_layout: layout of the output width.
        macs: multiply-accumulates for the traced example.
        params: number of parameters.
        pins: unprunable positions of its own parameters.
        order: position of its first operator in the forward pass.
        droppable: inner modules, relative to this one, that can be dropped as one branch or parallel path; "" is the
            module itself.
        children: children in the order of execution.
        joined: paths of the norms joined with it.
    """

    path: str
    own: str
    kind: str
    detail: str
    container: bool
    input_layout: Layout | None
    output_layout: Layout | None
    macs: float
    params: int
    pins: tuple[Pin, ...]
    order: int
    droppable: tuple[str, ...]
    children: tuple[ModuleNode, ...]
    joined: tuple[str, ...] = ()


@dc.dataclass(frozen=True, slots=True)
class Shortcut:
    """A residual sum: the result of the operators from `first` to `last` is added to their input."""

    module: str
    first: int
    last: int


def structure(graph: Graph, model: nn.Module) -> ModuleNode:
    """Build the tree of a network's modules.

    Args:
        graph: graph of the network.
        model: the network; only its classes are read, not its weights.

    Returns:
        The root node. The costs of a node are the sums over its children. The operators and parameters that a module
        with children has itself form an additional child.
    """
    modules = dict(model.named_modules())
    return _node("", modules, _facts(graph))


def shortcuts(graph: Graph) -> tuple[Shortcut, ...]:
    """Find the residual sums in a graph.

    A sum that a module computes itself, with the width of its output, counts as residual. It adds the result since the
    start of the module, or since its previous residual sum, to the earlier value.
    """
    outputs = {call.module: _positions(call.outputs[0]) for call in graph.calls if call.outputs}
    sums = set(residual_sums(graph.operators))
    begun: dict[str, int] = {}
    found = []
    for index, operator in enumerate(graph.operators):
        for path in _lineage(operator.module):
            begun.setdefault(path, index)
        path = operator.module
        if index in sums and begun[path] < index and _positions(operator.outputs[0]) == outputs.get(path):
            found.append(Shortcut(path, begun[path], index))
            begun[path] = index + 1
    return tuple(found)


def _positions(tensor: tuple[Layout, ...]) -> tuple[tuple[Layout, ...], int]:
    """The dimensions with groups, and the number of all other positions, which reshapes do not change."""
    free = tuple(dim for dim in tensor if any(axes(dim)))
    return free, math.prod(dim.size for dim in tensor if isinstance(dim, Fixed))


@dc.dataclass(frozen=True)
class _Facts:
    """Information from a graph about modules, by path."""

    layouts: Mapping[str, tuple[Layout, ...]]
    parameters: Mapping[str, Mapping[str, int]]
    operators: Mapping[str, Sequence[tuple[str, float]]]
    pins: Mapping[str, Sequence[Pin]]
    calls: Mapping[str, ModuleCall]
    order: Mapping[str, int]
    branches: Mapping[str, Sequence[str]]


def _facts(graph: Graph) -> _Facts:
    operators: dict[str, list[tuple[str, float]]] = {}
    order: dict[str, int] = {}
    for index, operator in enumerate(graph.operators):
        place = _place(operator)
        owners = [name.rpartition(".")[0] for name in operator.weights]
        for path in {path for owner in (place, *owners) for path in _lineage(owner)}:
            order.setdefault(path, index)
        cost = sum(constant * math.prod(extent(dim, {}) for dim in dims) for constant, dims in operator.macs)
        if cost:
            operators.setdefault(place, []).append((operator.name.removeprefix("aten."), float(cost)))
            order.setdefault(_own(place), index)
        for owner in owners:
            order.setdefault(_own(owner), index)
    parameters: dict[str, dict[str, int]] = {}
    for name, size in parameter_sizes(graph).items():
        parameters.setdefault(name.rpartition(".")[0], {})[name] = size
    pins: dict[str, list[Pin]] = {}
    for pin in pins_of(graph):
        pins.setdefault(pin.tensor.rpartition(".")[0], []).append(pin)
    calls = {call.module: call for call in reversed(graph.calls)}
    return _Facts(graph.layouts, parameters, operators, pins, calls, order, _branches(graph))


def _node(path: str, modules: Mapping[str, nn.Module], facts: _Facts) -> ModuleNode:
    module = modules[path]
    paths = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
    children = [_node(child, modules, facts) for child in paths if child in modules]
    own = _itself(path, module, facts)
    if children and (own.params or own.macs):
        names = [name.rpartition(".")[2] for name in facts.parameters.get(path, {})]
        names = names or list(dict.fromkeys(name for name, _ in facts.operators[path]))
        children.append(dc.replace(own, own=", ".join(names), kind="", detail="", container=False))
    if not children:
        return dc.replace(own, droppable=tuple(facts.branches.get(path, ())))
    input_layout, output_layout = _called(facts.calls.get(path), None, None)
    return dc.replace(
        own,
        input_layout=input_layout,
        output_layout=output_layout,
        macs=sum(child.macs for child in children),
        params=sum(child.params for child in children),
        pins=(),
        order=facts.order.get(path, own.order),
        droppable=tuple(facts.branches.get(path, ())),
        children=tuple(_in_order(children)),
    )


def _itself(path: str, module: nn.Module, facts: _Facts) -> ModuleNode:
    """Make the node of a module without its children."""
    parameters = facts.parameters.get(path, {})
    matrix = next((facts.layouts[name] for name in parameters if len(facts.layouts[name]) > 1 and "weight" in name), ())
    vector = next((dim for name in parameters for dim in reversed(facts.layouts[name]) if any(axes(dim))), None)
    input_layout, output_layout = (matrix[1], matrix[0]) if matrix else (None, vector)
    if not list(module.children()):
        input_layout, output_layout = _called(facts.calls.get(path), input_layout, output_layout)
    return ModuleNode(
        path=path,
        own="",
        kind=type(module).__name__,
        detail=_detail(module),
        container=isinstance(module, CONTAINERS),
        input_layout=input_layout,
        output_layout=output_layout,
        macs=sum(cost for _, cost in facts.operators.get(path, ())),
        params=sum(parameters.values()),
        pins=tuple(facts.pins.get(path, ())),
        order=facts.order.get(_own(path), -1),
        droppable=(),
        children=(),
    )


def _in_order(children: Sequence[ModuleNode]) -> list[ModuleNode]:
    """Sort by execution; a child without operators stays after its predecessor in the list."""
    indices, last = [], -1
    for child in children:
        last = child.order if child.order >= 0 else last
        indices.append(last)
    return [children[index] for index in sorted(range(len(children)), key=lambda index: indices[index])]


def _called(
    call: ModuleCall | None, input_layout: Layout | None, output_layout: Layout | None
) -> tuple[Layout | None, Layout | None]:
    """Layouts of input and output width, from a call if there is one, otherwise from the weights."""
    if call is None:
        return input_layout, output_layout
    before = _width(call.inputs[0], input_layout) if call.inputs else input_layout
    after = _width(call.outputs[0], output_layout) if call.outputs else output_layout
    return before, after


def _width(tensor: tuple[Layout, ...], known: Layout | None) -> Layout | None:
    """The layout of a tensor's width; heads and head dimension are combined."""
    free = tuple(dim for dim in tensor if any(axes(dim)))
    if free:
        return free[0] if len(free) == 1 else Product(free)
    if len(tensor) < 2:
        return tensor[0] if tensor else None
    usual = tensor[1] if len(tensor) > 3 else tensor[-1]
    return known if known in tensor[1:] and known != Fixed(1) else usual


def _detail(module: Any) -> str:
    """Kernel size, stride and grouping of a convolution as short text."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return ""
    stride = max(module.stride)
    groups = module.groups
    parts = [
        "×".join(str(length) for length in module.kernel_size),
        f"/{stride}" if stride > 1 else "",
        "" if groups == 1 else "depthwise" if groups == module.in_channels else f"{groups} groups",
    ]
    return " ".join(part for part in parts if part)


def _branches(graph: Graph) -> dict[str, list[str]]:
    """Return, for each block, the modules of its branches and parallel paths that can be dropped together."""
    found: dict[str, list[str]] = {}
    for branch in (*graph.branches, *graph.paths):
        parts = [module.split(".") for module in (*branch.modules, branch.exit)]
        shared = parts[0] if len(parts) == 1 else _shared(parts)
        names = [".".join(part[len(shared) :]) for part in parts]
        found.setdefault(".".join(shared), []).append(", ".join(names))
    return found


def _shared(parts: Sequence[Sequence[str]]) -> list[str]:
    shared = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return shared


def _place(operator: Operator) -> str:
    """The module that an operator belongs to: the owner of its weight, if it is inside the caller."""
    owners = [name.rpartition(".")[0] for name in operator.weights]
    return owners[0] if owners and operator.module in _lineage(owners[0]) else operator.module


def _own(path: str) -> str:
    """The key of a module apart from its children."""
    return f"{path}."


def _lineage(path: str) -> Iterator[str]:
    """Yield the paths of a module's ancestors from the network on, and its own path."""
    yield ""
    parts = path.split(".") if path else []
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
