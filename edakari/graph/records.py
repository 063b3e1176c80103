"""Records of the tracer: each operator call, each tensor, and each module call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from edakari.graph.algebra import DimExpr

if TYPE_CHECKING:
    from edakari.graph.axis_tracer import AxisTracer

__all__ = ["Call", "CallRecord", "OperatorRecord", "Shape", "TensorInfo"]

Shape = list[DimExpr]
"""Symbolic shape of a tensor: the structure of each of its dimensions."""

Term = tuple[int, tuple[DimExpr, ...]]


class Call:
    """One operator call: its arguments by position or name, and its result."""

    __slots__ = ("args", "kwargs", "name", "out")

    def __init__(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.out = out

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument that was given by position or by name."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    def tensors(self) -> list[torch.Tensor]:
        """Return every tensor among the arguments, in order."""
        found: list[torch.Tensor] = []
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, torch.Tensor):
                found.append(value)
            elif isinstance(value, list | tuple):
                found.extend(item for item in value if isinstance(item, torch.Tensor))
        return found


class OperatorRecord:
    """What the tracer records of one operator call."""

    __slots__ = (
        *(
            "arguments",
            "inputs",
            "macs",
            "module",
            "name",
            "outputs",
            "position_dims",
            "scalars",
            "settings",
            "sources",
        ),
        *("weights",),
    )

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self.module = module
        self.inputs: list[Shape] = []
        self.outputs: list[Shape] = []
        self.settings: dict[str, Any] = {}
        self.macs: list[Term] = []
        self.weights: list[str] = []
        self.position_dims: dict[int, tuple[DimExpr, ...]] = {}
        """For outputs whose entries are indices of positions: the dimensions that these indices refer to."""
        self.sources: tuple[int | None, ...] = ()
        """For each different input tensor, the index of the record that made it; None for an input of the network."""
        self.arguments: tuple[int | str | None, ...] = ()
        """For each tensor argument, the index of the record that made it, or its name if it is stored, or None."""
        self.scalars: tuple[float, ...] = ()
        """Plain numbers among the arguments."""


class TensorInfo:
    """What the tracer notes about a tensor: symbolic shape, record that made it, whether it only depends on weights."""

    __slots__ = ("dims", "index", "indexed_dims", "of_weights", "tracer")

    def __init__(self, tracer: AxisTracer, dims: Shape, index: int, of_weights: bool) -> None:
        self.tracer = tracer
        self.dims = dims
        self.index = index
        self.of_weights = of_weights
        self.indexed_dims: tuple[DimExpr, ...] = ()
        """Dimensions that its entries index, if they are indices of positions, as from `argmax`."""


class CallRecord:
    """One call of a module: inputs, outputs, the records in between, and tensors that its code made with sizes."""

    __slots__ = (
        "depth",
        "end",
        "input_sources",
        "inputs",
        "made_shapes",
        "output_sources",
        "outputs",
        "path",
        "returned",
        "start",
    )

    def __init__(self, path: str, inputs: list[Shape], input_sources: tuple[int | None, ...], start: int) -> None:
        self.path = path
        self.inputs = inputs
        self.input_sources = input_sources
        self.outputs: list[Shape] = []
        self.output_sources: tuple[int | None, ...] = ()
        """Like `input_sources`: the record that made each returned tensor; None for an input of the network."""
        self.made_shapes: dict[str, list[Shape]] = {}
        """Shapes of tensors created by operators with explicit sizes, per source line."""
        self.returned = 0
        """Length of the returned tuple; 0 for a tensor alone, -1 for anything else."""
        self.depth = 0
        """Number of calls that enclose it."""
        self.start = self.end = start

    @property
    def indices(self) -> range:
        """Indices of its records."""
        return range(self.start, self.end)
