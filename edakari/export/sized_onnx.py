"""ONNX models of a network and of its pruned versions, most of them without torch's exporter.

The exporter takes seconds for each network, and meeting a latency takes a dozen of them. A pruned network differs from
the network that it was cut from in the sizes of its weights. So its model is that network's before the exporter
optimises it, with other weights, and then optimised in the same way. Each model is run once: if it does not give the
outputs of its module, as where a size is a constant in the code, the network is exported after all.
"""

from __future__ import annotations

import copy
import dataclasses as dc
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from edakari.core.copying import copied
from edakari.core.modes import eval_mode
from edakari.core.optional import needs
from edakari.cost.example import arguments, mapped, shapes_text
from edakari.export.onnx_model import feeds, onnx_bytes, onnx_program, open_onnx, traced
from edakari.export.serving import served

__all__ = ["NetworkFiles"]

Shape = tuple[int, ...]

ASKED = frozenset({"view", "reshape", "flatten", "unflatten", "expand", "expand_as", "view_as", "reshape_as"})
"""Functions that are asked for a shape."""
MEANS = frozenset({"mean", "adaptive_avg_pool2d"})
"""Functions whose outputs may be gathered in a model."""
SAME = 1e-2
"""Largest difference of outputs that counts as rounding, as a fraction of the largest output: 0.0013 was seen."""


@final
class NetworkFiles:
    """Writes the ONNX models of networks that are timed: exports the first, and resizes it for its pruned versions."""

    def __init__(self) -> None:
        self._first: _Exported | None = None

    def content(self, model: nn.Module, example: Any) -> bytes:
        """Return the content of a network's ONNX file, as `edakari.export.onnx_model.write_onnx` writes it.

        Args:
            model: the network, of which the part `served` is exported; it does not change.
            example: an input [batch, ...], a tuple of positional arguments or a dict of keywords with such tensors.

        Raises:
            ExportError: the network cannot be exported; the message includes the exporter's error.
            MissingPackage: the extra `onnx` is not installed.
        """
        model, given = copied(served(model)).cpu(), mapped(example, torch.Tensor.cpu)
        if self._first is None:
            self._first = _Exported.of(model, given)
        if self._first.fits(model, given):
            called = _Called.of(model, given)
            found = self._first.resized(model, given, called)
            if found is not None and _gives(found, called.outputs, given):
                return found
            self._first = dc.replace(self._first, resizable=False)  # so would its other pruned versions
        return onnx_bytes(onnx_program(model, given))


@dc.dataclass(frozen=True)
class _Called:
    """One call of a network.

    Args:
        asked: name, input shape and output shape of each call of one of `ASKED` or `MEANS`, in order.
        outputs: tensors that the network gave.
    """

    asked: Sequence[tuple[str, Shape, Shape]]
    outputs: Sequence[Any]

    @classmethod
    def of(cls, model: nn.Module, example: Any) -> _Called:
        args, kwargs = arguments(example)
        with eval_mode(model), torch.no_grad(), _AskedShapes() as mode:
            outputs = tree_leaves(model(*args, **kwargs))
        return cls(tuple(mode.found), [each.numpy() for each in outputs if isinstance(each, torch.Tensor)])


class _AskedShapes(TorchFunctionMode):
    """Notes the calls of `ASKED` and `MEANS`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Shape, Shape]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        if name in ASKED | MEANS and isinstance(args[0], torch.Tensor):
            self.found.append((name, tuple(args[0].shape), tuple(result.shape)))
        return result


@dc.dataclass(frozen=True)
class _Exported:
    """An exported network before the exporter's optimisation.

    Args:
        program: what torch's exporter returned.
        weights: names of its parameters and buffers.
        inputs: shapes of its inputs.
        shapes: shape of every value that has a fixed one, by name.
        asked: see `_Called`.
        resizable: whether no resized model has failed yet.
    """

    program: Any
    weights: frozenset[str]
    inputs: str
    shapes: Mapping[str, Shape]
    asked: Sequence[tuple[str, Shape, Shape]]
    resizable: bool = True

    @classmethod
    def of(cls, model: nn.Module, example: Any) -> _Exported:
        program = onnx_program(model, example, optimize=False)
        graph = program.model.graph
        values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        fixed = [each for each in values if each.shape is not None and each.shape.is_static()]
        shapes = {each.name: tuple(each.shape.numpy()) for each in fixed}
        weights = frozenset(traced(model, example).state_dict())
        return cls(program, weights, shapes_text(example), shapes, _Called.of(model, example).asked)

    def fits(self, model: nn.Module, example: Any) -> bool:
        """Whether a network may be this one or a pruned version of it."""
        weights = traced(model, example).state_dict()
        return self.resizable and shapes_text(example) == self.inputs and weights.keys() == self.weights

    def resized(self, model: nn.Module, example: Any, called: _Called) -> bytes | None:
        """Return the model with the weights of a pruned version; None if its sizes contradict each other.

        Args:
            model: pruned version.
            example: input.
            called: one call of it.
        """
        program, module = copy.copy(self.program), traced(model, example)
        program.model = self.program.model.clone()
        graph = program.model.graph
        for index, (node, target) in enumerate(self._targets(graph, called.asked)):
            node.replace_input_with(1, _constant(graph, f"shape_{index}", target))
        for index, (node, target) in enumerate(self._copies(graph, called.asked)):
            node.replace_input_with(
                1, _constant(graph, f"places_{index}", np.arange(math.prod(target)).reshape(target))
            )
        for node in graph:
            for value in node.outputs:
                value.shape = value.shape if value.is_graph_output() else None
        weights = module.state_dict()
        for name in weights.keys() & graph.initializers.keys():
            _fill(graph.initializers[name], weights[name], module)
        try:
            program.optimize()
        except Exception:  # of whatever kind the optimiser raises
            return None
        return onnx_bytes(program)

    def _targets(self, graph: Any, asked: Sequence[tuple[str, Shape, Shape]]) -> Iterator[tuple[Any, Sequence[int]]]:
        """Yield each node that is asked for a shape, and its shape in a pruned version.

        The nodes of one pair of shapes are the calls with this pair, in order, if there are equally many. Other nodes
        are not calls of the network's own code, and their shapes follow those of their inputs.
        """
        nodes = [(node, before, after) for node in graph for before, after in self._pairs(node)]
        calls: dict[tuple[Shape, Shape], list[Shape]] = {}
        if [name for name, *_ in asked] == [name for name, *_ in self.asked]:
            for (_, before, after), (*_, now) in zip(self.asked, asked, strict=True):
                calls.setdefault((before, after), []).append(now)
        counts = Counter((before, after) for _, before, after in nodes)
        found = {pair: iter(each) for pair, each in calls.items() if len(each) == counts[pair]}
        for node, before, after in nodes:
            if (before, after) in found:
                yield node, next(found[before, after])
            elif node.op_type == "Expand":
                yield node, expanded(before, after)
            else:
                node.attributes["allowzero"] = _ir().AttrInt64("allowzero", 0)
                yield node, reshaped(before, after)

    def _copies(self, graph: Any, asked: Sequence[tuple[str, Shape, Shape]]) -> Iterator[tuple[Any, Shape]]:
        """Yield each node that gathers all of its values in order, and its shape in a pruned version.

        The exporter writes such nodes for means over the space of images, whose memory is not contiguous.
        """
        if len(asked) != len(self.asked):
            return
        means: dict[Shape, set[Shape]] = {}
        for (name, _, after), (*_, now) in zip(self.asked, asked, strict=True):
            if name in MEANS:
                means.setdefault(after, set()).add(now)
        for node in graph:
            shape = self.shapes.get(node.outputs[0].name, ())
            if node.op_type == "Gather" and len(means.get(shape, ())) == 1 and _in_order(node.inputs[1]):
                yield node, next(iter(means[shape]))

    def _pairs(self, node: Any) -> Iterator[tuple[Shape, Shape]]:
        """Yield the shapes of a node's input and output if it is asked for a shape, and both are known."""
        if node.op_type in ("Reshape", "Expand"):
            before, after = (self.shapes.get(value.name) for value in (node.inputs[0], node.outputs[0]))
            if before is not None and after is not None:
                yield before, after


def expanded(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return the operand of an `Expand` for inputs of any sizes; a 1 stands for the size of the input.

    Args:
        before: shape of the input.
        after: shape of the output.
    """
    padded = [1] * (len(after) - len(before)) + list(before)
    return [1 if new == old else new for old, new in zip(padded, after, strict=True)]


def reshaped(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return the operand of a `Reshape` for inputs of any sizes; 0 stands for the input's size, -1 for what is left.

    Which size changes is a guess where several can: the last one, or the number of heads where a dimension is split.

    Args:
        before: shape of the input.
        after: shape of the output.
    """
    equal = next((at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), None)
    equal = min(len(before), len(after)) if equal is None else equal
    found = [0] * equal + list(after[equal:])
    free = [index for index in range(equal, len(after)) if after[index] > 1]
    if free:
        splits = len(after) > len(before) and equal == len(before) - 1 and len(free) > 1
        found[free[-2 if splits else -1]] = -1
    return found


def _in_order(value: Any) -> bool:
    """Whether a value is a constant that holds 0, 1, 2, …"""
    node = value.producer()
    if node is None or node.op_type != "Constant" or "value" not in node.attributes:
        return False
    places = node.attributes["value"].value.numpy().ravel()
    return bool((places == np.arange(len(places))).all())


def _constant(graph: Any, name: str, values: Any) -> Any:
    """Add a constant to a graph."""
    ir = _ir()
    tensor = ir.tensor(np.asarray(values, dtype=np.int64), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
    graph.initializers[name] = value
    return value


def _fill(value: Any, tensor: torch.Tensor, module: nn.Module) -> None:
    """Give an initializer another tensor, and the convolutions whose weight it is the groups of their module."""
    ir = _ir()
    value.const_value = ir.tensor(tensor.detach().contiguous().numpy(), name=value.name)
    value.shape = value.const_value.shape
    for node, index in value.uses():
        if node.op_type == "Conv" and index == 1:
            groups = getattr(module.get_submodule(value.name.rpartition(".")[0]), "groups", 1)
            node.attributes["group"] = ir.AttrInt64("group", groups)


def _gives(content: bytes, outputs: Sequence[Any], example: Any) -> bool:
    """Whether a model gives the outputs of its module."""
    try:
        session = open_onnx(content, threads=1)
        found = session.run(None, feeds(session, example))
    except Exception:  # onnxruntime has a class of errors for each status
        return False
    return len(found) == len(outputs) and all(map(_close, found, outputs))


def _close(found: Any, wanted: Any) -> bool:
    if found.shape != wanted.shape or not np.isfinite(wanted).all():
        return False
    return bool(np.abs(found - wanted).max(initial=0.0) <= SAME * np.abs(wanted).max(initial=0.0))


def _ir() -> Any:
    with needs("onnx", "exporting to ONNX"):
        from onnxscript import ir
    return ir
