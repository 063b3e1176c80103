"""Makes the graph after the trace: the groups and their names, and what cannot be pruned."""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping

from edakari.core import layout as layouts
from edakari.core.graph import Branch, Graph, InputSpec, ModuleCall, Operator, Unprunable
from edakari.core.layout import Layout
from edakari.core.space import Group, Kind
from edakari.graph import algebra
from edakari.graph.algebra import DimAxis, DimExpr
from edakari.graph.axis_tracer import AxisTracer, CallRecord, OperatorRecord, Shape
from edakari.graph.freezing import Known, freeze, pinned

__all__ = ["finish"]

Freeze = Callable[[DimExpr], Layout]

KINDS: tuple[Kind, ...] = ("head", "head_dim", "group", "hidden")


def finish(
    tracer: AxisTracer,
    stored: Mapping[str, Shape],
    parameters: Collection[str],
    registered: Collection[str],
    inputs: InputSpec,
    device: str,
    device_reason: str,
    sides: tuple[tuple[Branch, ...], tuple[Branch, ...]],
) -> Graph:
    """Freeze a finished trace into a graph.

    Args:
        tracer: tracer after the forward pass, with pinned outputs.
        stored: dimensions of every tensor that the network holds, by name, in the network's own order.
        parameters: names of those that are parameters.
        registered: names of those that are parameters or buffers. The fingerprint ignores plain attributes, as they can
            depend on whether the network ran before.
        inputs: example that was traced.
        device: device of the forward pass.
        device_reason: reason why it did not run on meta, in torch's words.
        sides: branches and paths that can be dropped.
    """
    _pin_unproduced(tracer, stored, parameters)
    named = _named(stored)
    known: Known = {axis: layouts.Axis(group.name, group.size) for axis, group in named.items()}
    frozen_dim = _remembering(known)
    frozen = {name: tuple(frozen_dim(dim) for dim in dims) for name, dims in stored.items()}
    return Graph(
        groups=tuple(named.values()),
        layouts=frozen,
        parameters=tuple(name for name in stored if name in parameters),
        operators=tuple(_operator(frozen_dim, record) for record in tracer.records),
        calls=tuple(_call(frozen_dim, call_record) for call_record in tracer.calls),
        unprunable=tuple(_unprunable(stored)),
        inputs=inputs,
        device=device,
        device_reason=device_reason,
        attributes={key: frozen_dim(dim) for key, dim in tracer.notes.items()},
        fingerprint=fingerprint({name: dims for name, dims in frozen.items() if name in registered}),
        branches=sides[0],
        paths=sides[1],
    )


def _remembering(known: Known) -> Freeze:
    """Return `freeze` for dimensions that the tracer holds: most of them are the same object in many tensors."""
    found: dict[int, Layout] = {}

    def frozen_dim(dim: DimExpr) -> Layout:
        layout = found.get(id(dim))
        if layout is None:
            layout = found[id(dim)] = freeze(dim, known)
        return layout

    return frozen_dim


def fingerprint(frozen: Mapping[str, tuple[Layout, ...]]) -> str:
    """Return the SHA-256 of the names and layouts of all parameters and buffers."""
    content = {name: [layouts.to_json(dim) for dim in dims] for name, dims in sorted(frozen.items())}
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _pin_unproduced(tracer: AxisTracer, stored: Mapping[str, Shape], parameters: Collection[str]) -> None:
    """Pin axes that the forward pass did not use, and axes that no weight produces."""
    for name, dims in stored.items():
        if name not in tracer.read:
            for dim in dims:
                algebra.pin(dim, "not used in the forward pass that was traced")
    produced = {axis for dim in tracer.produced for axis in algebra.leaves(dim)}
    for axis, members in _owners(stored).items():
        if axis not in produced and all(position == 1 for name, position, _ in members if name in parameters):
            algebra.pin(axis, "its values are constants, not made by weights")


def _operator(freeze: Freeze, record: OperatorRecord) -> Operator:
    return Operator(
        record.name,
        record.module,
        _frozen_shapes(freeze, record.outputs),
        tuple((constant, tuple(freeze(dim) for dim in term)) for constant, term in record.macs),
        tuple(dict.fromkeys(record.weights)),
        _frozen_shapes(freeze, record.inputs),
        record.settings,
        record.sources,
    )


def _call(freeze: Freeze, call_record: CallRecord) -> ModuleCall:
    return ModuleCall(
        call_record.path,
        _frozen_shapes(freeze, call_record.inputs),
        _frozen_shapes(freeze, call_record.outputs),
        {line: _frozen_shapes(freeze, tensors) for line, tensors in call_record.made_shapes.items()},
        call_record.input_sources,
        call_record.output_sources,
    )


def _frozen_shapes(freeze: Freeze, tensors: Iterable[Shape]) -> tuple[tuple[Layout, ...], ...]:
    return tuple(tuple(freeze(dim) for dim in dims) for dims in tensors)


def _owners(stored: Mapping[str, Shape]) -> dict[DimAxis, list[tuple[str, int, int]]]:
    owners: dict[DimAxis, list[tuple[str, int, int]]] = {}
    for name, dims in stored.items():
        for position, dim in enumerate(dims):
            for axis in algebra.leaves(dim):
                owners.setdefault(axis, []).append((name, position, len(dims)))
    return owners


def _named(stored: Mapping[str, Shape]) -> dict[DimAxis, Group]:
    owners = _owners(stored)
    has_heads = any("head_dim" in axis.kinds for axis in owners)
    kinds = {axis: _kind(axis, members, has_heads) for axis, members in owners.items()}
    bases = {axis: _base(members) for axis, members in owners.items()}
    counts = collections.Counter(bases.values())
    taken: dict[str, int] = {}
    groups: dict[DimAxis, Group] = {}
    for axis, base in bases.items():
        name = f"{base}:{kinds[axis]}" if counts[base] > 1 else base
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name = f"{name}#{taken[name]}"
        groups[axis] = Group(name, kinds[axis], axis.size, least=axis.least)
    return groups


def _base(members: list[tuple[str, int, int]]) -> str:
    producers = [name for name, position, count in members if position == 0 and count > 1]
    weights = [name for name in producers if name.endswith("weight")]
    path, _, last = (weights or producers or [members[0][0]])[0].rpartition(".")
    # a fused projection has a name of its own, separate from the module's other weights
    return f"{path}.{last.removesuffix('_weight')}" if path and last.endswith("_weight") else path or last


def _kind(axis: DimAxis, members: list[tuple[str, int, int]], has_heads: bool) -> Kind:
    for kind in KINDS:
        if kind in axis.kinds:
            return kind
    if "normalized" in axis.kinds and has_heads:
        return "embedding"
    return "channel" if any(count > 2 for _, _, count in members) or has_heads is False else "hidden"


def _unprunable(stored: Mapping[str, Shape]) -> Iterable[Unprunable]:
    for name, dims in stored.items():
        for position, dim in enumerate(dims):
            reasons: dict[str, int] = {}
            for size, reason in pinned(dim):
                reasons[reason] = reasons.get(reason, 0) + size
            for reason, size in reasons.items():
                yield Unprunable(f"{name}[{position}]", size, reason)
