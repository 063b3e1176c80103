"""Traces one forward pass: for every operator call, its rule maps input dimensions to output dimensions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from edakari.core.modules import modules_of
from edakari.graph import algebra
from edakari.graph.algebra import DimExpr
from edakari.graph.entries import MOVING, NUMBERING
from edakari.graph.meta import execute, operator_name
from edakari.graph.module_calls import told_of_calls
from edakari.graph.operator_mode import OperatorMode
from edakari.graph.records import Call, CallRecord, OperatorRecord, Shape, TensorInfo
from edakari.graph.shape_operators import SHAPE_OPERATORS, line_of_code
from edakari.graph.tracked_attributes import OPAQUE, is_known
from edakari.graph.tracked_ints import LISTENER, IntTracker
from edakari.graph.widths import known_widths

__all__ = ["AxisTracer", "Call", "CallRecord", "OperatorRecord", "Rule", "Shape"]

Rule = Callable[["AxisTracer", "Call"], Any]
"""Returns the symbolic shape of an operator's output, or a list of shapes if it has several outputs."""


class AxisTracer:
    """State of one traced forward pass.

    Args:
        stored: dimensions of each parameter and buffer, by the tensor's id.
        names: name of each parameter and buffer, by the tensor's id.
        rules: operator name to rule.
        functions: torch functions that are traced as a whole instead of operator by operator, with their rules.
    """

    def __init__(
        self,
        stored: dict[int, Shape],
        names: Mapping[int, str],
        rules: Mapping[str, Rule],
        functions: Mapping[Callable[..., Any], tuple[str, Rule]],
    ) -> None:
        self.stored = stored
        self.names = names
        self.rules = rules
        self.functions = functions
        self.whole = dict(functions.values())
        self.records: list[OperatorRecord] = []
        self.read: set[str] = set()
        self.modules: list[str] = [""]
        self.calls: list[CallRecord] = []
        self.running_calls: list[CallRecord] = []
        self.returned: set[int] = set()
        """Indices of the records that made the network's outputs."""
        self.produced: list[DimExpr] = []
        """Output dimensions of products with weights."""
        self.notes: dict[tuple[str, str], DimExpr] = {}
        self.record = OperatorRecord("", "")
        self.quiet = False
        self.ints: IntTracker | None = None
        self.opaque: frozenset[str] = frozenset()
        self.own: frozenset[str] = frozenset()

    # called by rules

    @property
    def reason(self) -> str:
        """The running operator and module as text: the reason for axes that are pinned now."""
        return f"{self.record.name} in {self.record.module or 'the network'}"

    def dims(self, tensor: torch.Tensor) -> Shape:
        """Return the symbolic shape of a tensor; note that the running operator reads it."""
        known = self.stored.get(id(tensor))
        if known is not None:
            name = self.names[id(tensor)]
            self.read.add(name)
            self.record.weights.append(name)
            return known
        info = self.info(tensor)
        return list(tensor.shape) if info is None or len(info.dims) != tensor.dim() else info.dims

    def peek(self, tensor: torch.Tensor) -> Shape:
        """Return the symbolic shape of a tensor; unlike `dims`, this does not count as a read."""
        info = self.info(tensor)
        return self.stored.get(id(tensor)) or (list(tensor.shape) if info is None else info.dims)

    def info(self, tensor: torch.Tensor) -> TensorInfo | None:
        """Return what this tracer noted about an operator's output; None for one cached from another forward pass."""
        info: TensorInfo | None = getattr(tensor, "_edakari_info", None)
        return info if info is not None and info.tracer is self else None

    def is_stored(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the network."""
        return id(tensor) in self.stored

    def is_weight(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a parameter or buffer, or computed from them only."""
        info = self.info(tensor)
        return self.is_stored(tensor) or (info is not None and info.of_weights)

    def indexed_by(self, tensor: torch.Tensor) -> tuple[DimExpr, ...]:
        """Dimensions that a tensor's entries index; empty if the entries are no indices."""
        info = self.info(tensor)
        return info.indexed_dims if info is not None else ()

    def entries_index(self, output: int, *dims: DimExpr) -> None:
        """Note that an output's entries are indices along these dimensions; computing with them pins these."""
        self.record.position_dims[output] = tuple(dim for dim in dims if not isinstance(dim, int))

    def unify(self, left: DimExpr, right: DimExpr) -> None:
        """State that two dimensions hold the same positions."""
        if left is not right:
            algebra.unify(
                left,
                right,
                self.reason + " joins it with an input, a constant or another dimension that cannot be pruned",
            )

    def pin(self, *dims: DimExpr, why: str = "") -> None:
        """Pin dimensions: none of their positions can be pruned."""
        for dim in dims:
            if not isinstance(dim, int):
                algebra.pin(dim, self.reason + (f": {why}" if why else ""))

    def mark(self, dim: DimExpr, kind: str) -> None:
        """Note the kind of a dimension's axes, such as "head"."""
        for axis in algebra.leaves(dim):
            axis.kinds.add(kind)

    def count(self, constant: int, *dims: DimExpr) -> None:
        """Note multiply-accumulates: a constant times the extents of these dimensions."""
        for dim in dims:
            if isinstance(dim, int):
                constant *= dim
        self.record.macs.append((constant, tuple(dim for dim in dims if not isinstance(dim, int))))

    def note(self, attribute: str, dim: DimExpr) -> None:
        """Note the extent of an attribute of the running module, such as a convolution's groups."""
        self.notes[self.record.module, attribute] = dim

    def set(self, **settings: Any) -> None:
        """Note further settings that determine how long the operator takes, as plain values."""
        self.record.settings.update(settings)

    # called by the modes

    def rule_of(self, name: str, operator: Any) -> Rule | None:
        """The rule of an operator; operators that torch tags as pointwise share one."""
        rule = self.rules.get(name)
        tags = getattr(operator, "tags", ())  # operators that take functions have none
        return self.rules["pointwise"] if rule is None and torch.Tag.pointwise in tags else rule

    def handle(self, name: str, rule: Rule | None, call: Call) -> None:
        """Apply a rule to a call, and attach the symbolic shapes to the outputs."""
        self.record = record = OperatorRecord(name, self.modules[-1])
        outputs = [leaf for leaf in tree_leaves(call.out) if isinstance(leaf, torch.Tensor)]
        tensors = call.tensors()
        inputs = {id(tensor) for tensor in tensors}
        indexed = tuple(dim for tensor in tensors for dim in self.indexed_by(tensor))
        if name not in NUMBERING and name not in MOVING:
            self.pin(*indexed, why="it computes with indices of positions, which change when positions are removed")
        if not outputs:
            return
        record.inputs = self._described(tensors)
        result = rule(self, call) if rule is not None else None
        dims: list[Shape] = [] if result is None else (result if _is_several(result) else [result])
        if not _fits(dims, outputs):
            self._refuse(call, name)
            dims = [list(output.shape) for output in outputs]
        of_weights = bool(inputs) and all(map(self.is_weight, tensors))
        different = {id(tensor): tensor for tensor in tensors if not self.is_stored(tensor)}.values()
        record.sources = tuple(info.index if info else None for info in map(self.info, different))
        record.arguments = tuple(map(self._origin, tensors))
        record.scalars = tuple(value for value in call.args if type(value) in (int, float))
        for index, (output, description) in enumerate(zip(outputs, dims, strict=True)):
            if id(output) not in inputs or not self.is_stored(output):
                info = TensorInfo(self, description, len(self.records), of_weights)
                info.indexed_dims = indexed if name in MOVING else record.position_dims.get(index, ())
                output._edakari_info = info  # type: ignore[attr-defined]
        record.outputs = dims
        self.records.append(record)

    def noticed(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Any:
        """Return the result of a torch function without a rule, with sizes as tracked integers."""
        if self.ints is None or self.quiet or self.modules[-1] in self.opaque:
            return out
        out = self.ints.seen(function, args, kwargs, out)
        if function in SHAPE_OPERATORS:
            self.running_calls[-1].made_shapes.setdefault(line_of_code(), []).extend(self._described(out))
        return out

    def sizes_by_literals(self) -> bool:
        """Whether code set the length of a prunable dimension with an integer of unknown origin, such as a literal."""
        sized = self.ints.literal if self.ints else ()
        return any(True for dim in sized for _ in algebra.leaves(dim))

    def hold_comparisons(self) -> None:
        """Make sure that every comparison of widths has the same result in a cut network."""
        if self.ints:
            self.ints.hold()

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """Run operators without tracing them."""
        self.quiet = True
        try:
            yield
        finally:
            self.quiet = False

    def _refuse(self, call: Call, name: str) -> None:
        touched = [dim for tensor in call.tensors() for dim in self.dims(tensor)]
        unknown = "edakari has no rule for this operator, so it is unknown which positions it joins"
        unusual = "its rule does not support these arguments"
        self.pin(*touched, why=unusual if name in self.rules else unknown)

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Trace the forward pass of a network, and note each module's call, inputs and outputs."""
        self.ints = IntTracker(self.notes, self.peek, self._same_number, self._running, known_widths(model, self.peek))
        modules = modules_of(model)
        self.opaque = frozenset(path for path, module in modules if isinstance(module, OPAQUE))
        self.own = frozenset(path for path, module in modules if is_known(module))
        token = LISTENER.set(self.ints.compared)
        try:
            calls = told_of_calls(model, self._entered, self._left, self._ran)
            with calls, FunctionMode(self), OperatorMode(self._operator):
                yield
        finally:
            LISTENER.reset(token)

    def _operator(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        name = operator_name(func)
        out = execute(name, func, args, kwargs)
        if not self.quiet:
            self.handle(name, self.rule_of(name, func), Call(name, args, kwargs, out))
        return out

    def _ran(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        if not self.quiet:
            self.handle(name, self.rules.get(name) or self.whole[name], Call(name, args, kwargs, out))

    def _entered(self, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.modules.append(path)
        self.running_calls.append(CallRecord(path, self._described(args), self._sources(args), len(self.records)))
        self.running_calls[-1].depth = len(self.running_calls)
        self.calls.append(self.running_calls[-1])

    def _left(self, path: str, output: Any) -> None:
        self.modules.pop()
        call_record = self.running_calls.pop()
        call_record.outputs, call_record.output_sources = self._described(output), self._sources(output)
        call_record.end = len(self.records)
        call_record.returned = len(output) if type(output) is tuple else 0 if isinstance(output, torch.Tensor) else -1

    def _described(self, tree: Any) -> list[Shape]:
        return [self.peek(tensor) for tensor in _tensors(tree)]

    def _origin(self, tensor: torch.Tensor) -> int | str | None:
        info = self.info(tensor)
        return self.names.get(id(tensor)) or (info.index if info else None)

    def _sources(self, tree: Any) -> tuple[int | None, ...]:
        return tuple(info.index if info else None for info in map(self.info, _tensors(tree)))

    def _running(self) -> str | None:
        """Path of the module whose code runs; None if tracing is muted, or the module is one of torch's own."""
        return None if self.quiet or self.modules[-1] in self.opaque | self.own else self.modules[-1]

    def _same_number(self, left: DimExpr, right: DimExpr) -> None:
        where = self.modules[-1] or "the network"
        algebra.unify(left, right, f"the code of {where} uses one integer for it and for others")


def _tensors(tree: Any) -> list[torch.Tensor]:
    leaves = (tree,) if isinstance(tree, torch.Tensor) else tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _is_several(result: Any) -> bool:
    return bool(result) and isinstance(result[0], list)


def _fits(dims: Sequence[Shape], outputs: Sequence[torch.Tensor]) -> bool:
    return len(dims) == len(outputs) and all(
        len(description) == output.dim()
        and all(algebra.size(dim) == length for dim, length in zip(description, output.shape, strict=True))
        for description, output in zip(dims, outputs, strict=True)
    )


class FunctionMode(TorchFunctionMode):
    """Handles functions that have their own rule; all others are traced by their operators."""

    def __init__(self, tracer: AxisTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = self.tracer.functions.get(func)
        if known is None:
            # torch's own code compares its arguments with sizes that the tracer cannot see
            token = LISTENER.set(None)
            try:
                out = func(*args, **kwargs)
            finally:
                LISTENER.reset(token)
            return self.tracer.noticed(func, args, kwargs, out)
        name, rule = known
        with self.tracer.muted():
            out = execute(name, func, args, kwargs)
        self.tracer.handle(name, rule, Call(name, args, kwargs, out))
        return out
