"""ONNX models of a network and of its pruned versions, most of them without torch's exporter.

The exporter takes seconds for each network, and meeting a latency takes a dozen of them. A pruned network differs from
the network that it was cut from in the sizes of its weights. So its model is that network's before the exporter
optimises it, with other weights, and then optimised in the same way. Each model is run once: if it does not give the
outputs of its module, as where a size is a constant in the code, the network is exported after all.
"""

from __future__ import annotations

import copy
import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.copying import copied
from edakari.core.modes import eval_mode
from edakari.core.optional import needs
from edakari.cost.example import arguments, mapped, shapes_text
from edakari.export.onnx_model import feeds, onnx_bytes, onnx_program, open_onnx, traced
from edakari.export.serving import served

__all__ = ["NetworkFiles"]

SAME = 1e-3
"""Largest difference of outputs that counts as rounding, as a fraction of the largest output."""


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
            found = self._first.resized(model, given)
            if found is not None and _same(found, model, given):
                return found
            self._first = dc.replace(self._first, resizable=False)  # so would its other pruned versions
        return onnx_bytes(onnx_program(model, given))


@dc.dataclass(frozen=True)
class _Exported:
    """An exported network before the exporter's optimisation.

    Args:
        program: what torch's exporter returned.
        weights: names of its parameters and buffers.
        inputs: shapes of its inputs.
        shapes: shape of every value that has a fixed one, by name.
        resizable: whether no resized model has failed yet.
    """

    program: Any
    weights: frozenset[str]
    inputs: str
    shapes: Mapping[str, Sequence[int]]
    resizable: bool = True

    @classmethod
    def of(cls, model: nn.Module, example: Any) -> _Exported:
        program = onnx_program(model, example, optimize=False)
        graph = program.model.graph
        values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        shapes = {each.name: each.shape.numpy() for each in values if each.shape is not None and each.shape.is_static()}
        return cls(program, frozenset(traced(model, example).state_dict()), shapes_text(example), shapes)

    def fits(self, model: nn.Module, example: Any) -> bool:
        """Whether a network may be this one or a pruned version of it."""
        weights = traced(model, example).state_dict()
        return self.resizable and shapes_text(example) == self.inputs and weights.keys() == self.weights

    def resized(self, model: nn.Module, example: Any) -> bytes | None:
        """Return the model with the weights of a pruned version; None if its sizes contradict each other."""
        program, module = copy.copy(self.program), traced(model, example)
        program.model = self.program.model.clone()
        graph = program.model.graph
        for index, node in enumerate(list(graph)):
            target = self._target(node)
            if target is not None:
                node.replace_input_with(1, _constant(graph, f"shape_{index}", target))
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

    def _target(self, node: Any) -> Sequence[int] | None:
        """Return the shape that a node shall give, in terms of its input's sizes; None if it gives none of its own."""
        if node.op_type not in ("Reshape", "Expand"):
            return None
        before, after = (self.shapes.get(value.name) for value in (node.inputs[0], node.outputs[0]))
        if before is None or after is None:
            return None
        if node.op_type == "Expand":
            return expanded(before, after)
        node.attributes["allowzero"] = _ir().AttrInt64("allowzero", 0)
        return reshaped(before, after)


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


def _constant(graph: Any, name: str, values: Sequence[int]) -> Any:
    """Add a constant to a graph."""
    ir = _ir()
    tensor = ir.tensor(np.array(values, dtype=np.int64), name=name)
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


def _same(content: bytes, model: nn.Module, example: Any) -> bool:
    """Whether a model gives the outputs of a module."""
    args, kwargs = arguments(example)
    try:
        session = open_onnx(content, threads=1)
        found = session.run(None, feeds(session, example))
    except Exception:  # onnxruntime has a class of errors for each status
        return False
    with eval_mode(model), torch.no_grad():
        wanted = [leaf.numpy() for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
    return len(found) == len(wanted) and all(map(_close, found, wanted))


def _close(found: Any, wanted: Any) -> bool:
    if found.shape != wanted.shape or not np.isfinite(wanted).all():
        return False
    return bool(np.abs(found - wanted).max(initial=0.0) <= SAME * np.abs(wanted).max(initial=0.0))


def _ir() -> Any:
    with needs("onnx", "exporting to ONNX"):
        from onnxscript import ir
    return ir
