"""Checks that a cut network runs, with the shapes that the graph predicts; on meta tensors if possible."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.graph import Graph, ModuleCall
from edakari.core.layout import Fixed, Layout, extent
from edakari.core.space import Sizes
from edakari.errors import ModelError
from edakari.graph.inputs import example_for
from edakari.graph.meta import quick_meta
from edakari.graph.module_calls import told_of_calls
from edakari.graph.shadow import run_on
from edakari.graph.shape_operators import SHAPE_OPERATORS, line_of_code

__all__ = ["Fault", "fault_of"]


@dc.dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a cut network.

    Args:
        module: dotted path of the module that fails, or whose tensors have other shapes than the graph predicts.
        found: description of the fault.
    """

    module: str
    found: str


class _Mismatch(Exception):
    """Ends the forward pass at once; its argument is the fault."""


def fault_of(small: nn.Module, graph: Graph, sizes: Sizes) -> Fault | None:
    """Run a cut network on the traced example, and compare the tensors of each module with the graph.

    Args:
        small: cut network on `graph.device`, in evaluation mode. Its forward pass may store values in it, so pass a
            copy of a network that is used later.
        graph: graph of the dense network.
        sizes: sizes of the groups that were cut; branches and paths at size 0 were dropped.

    Returns:
        The first fault; None if there is none.
    """
    watch = _Watch(graph, sizes)
    example = example_for(small, graph.inputs, graph.device)
    try:
        with told_of_calls(small, watch.entered, watch.left, _unobserved), quick_meta(watch.called):
            run_on(small, example)
    except _Mismatch as mismatch:
        return Fault(watch.running, str(mismatch))
    except ModelError as error:
        lines = str(error.__cause__ or error).strip().splitlines()
        return Fault(watch.running, lines[0] if lines else type(error.__cause__).__name__)
    return watch.missed()


def _unobserved(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Only the tensors that a layer gets and returns are compared."""


class _Watch:
    """Compares the tensors of each module call; sizes that depend on data are not compared."""

    def __init__(self, graph: Graph, sizes: Sizes) -> None:
        self.sizes = sizes
        self.every_length = graph.device == "meta"
        self.expected: dict[str, list[ModuleCall]] = {}
        dropped = [branch for branch in graph.droppable if sizes.get(branch.name, 1) == 0]
        self.gone = {path for branch in dropped for path in (*branch.modules, branch.exit)}
        # modules next to those of a dropped branch receive what these pass on, unless shapes stay
        self.changed = {index for branch in dropped if not branch.shapes for index in branch.region}
        # a replacement makes what it needs by code of its own
        self.replaced = self.gone | {graph.operators[index].module for index in self.changed}
        silent = {call for branch in dropped for call in branch.calls}
        for index, entry in enumerate(graph.calls):
            if index not in silent:
                self.expected.setdefault(entry.module, []).append(entry)
        self.count: dict[str, int] = {}
        self.stack: list[str] = []
        self.indices: list[dict[str, int]] = []

    @property
    def running(self) -> str:
        return self.stack[-1] if self.stack else ""

    def entered(self, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Compare the tensors that a module gets by position."""
        entry = self._entry(path)
        if entry is not None and self.changed.isdisjoint(entry.input_sources):
            self._compare(entry.inputs, args, f"{path or 'the network'} gets")
        self.stack.append(path)
        self.indices.append({})

    def left(self, path: str, output: Any) -> None:
        """Compare the tensors that a module returns."""
        entry = self._entry(path)
        if entry is not None and self.changed.isdisjoint(entry.output_sources):
            self._compare(entry.outputs, output, f"{path or 'the network'} returns")
        self.count[path] = self.count.get(path, 0) + 1
        self.stack.pop()
        self.indices.pop()

    def called(self, function: Any, out: Any) -> None:
        """Compare the shapes that a line of the running module's code made by sizes with those in the trace."""
        if function not in SHAPE_OPERATORS:
            return
        entry = self._entry(self.running)
        if entry is None or not self.every_length or self.running in self.replaced:
            return
        line = line_of_code()
        start = self.indices[-1].get(line, 0)
        self.indices[-1][line] = end = start + sum(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(out))
        expected = entry.made_shapes.get(line, ())[start:end]
        if expected:
            self._compare(expected, out, f"{line} makes")

    def missed(self) -> Fault | None:
        """A replacement in a dropped branch that the network's code did not call, unlike the module itself."""
        for path in sorted(self.gone - self.count.keys()):
            if self.gone.isdisjoint(_enclosing(path)):
                return Fault(path, f"the network does not call the replacement of {path}")
        return None

    def _entry(self, path: str) -> ModuleCall | None:
        entries, count = self.expected.get(path, []), self.count.get(path, 0)
        return entries[count] if count < len(entries) else None

    def _compare(self, layouts: Sequence[Sequence[Layout]], tree: Any, what: str) -> None:
        leaves = (tree,) if isinstance(tree, torch.Tensor) else tree_leaves(tree)
        found = [leaf.shape for leaf in leaves if isinstance(leaf, torch.Tensor)]
        fits = len(found) == len(layouts) if self.every_length else True
        for shape, dims in zip(found, layouts, strict=False):
            fits = fits and (len(shape) == len(dims) or not self.every_length) and self._fits(shape, dims)
        if not fits:
            wanted = [tuple(extent(dim, self.sizes) for dim in dims) for dims in layouts]
            raise _Mismatch(f"{what} {_text(found)} where {_text(wanted)} was expected")

    def _fits(self, shape: Sequence[int], dims: Sequence[Layout]) -> bool:
        for length, dim in zip(shape, dims, strict=False):
            if isinstance(dim, Fixed):
                if self.every_length and length != dim.size:
                    return False
            elif length != extent(dim, self.sizes):
                return False
        return True


def _enclosing(path: str) -> Iterator[str]:
    """The paths of the modules around a module, without the network itself."""
    while path := path.rpartition(".")[0]:
        yield path


def _text(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes) or "nothing"
