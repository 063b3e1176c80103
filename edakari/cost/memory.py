"""The peak memory of a forward pass: the weights, the inputs, and the network's own tensors that are alive at a time.

A tensor is born at the operator that makes it, and dies after the last operator that reads it or a view of it. A
runtime needs this much if it frees memory as early as possible. Eager PyTorch also keeps tensors that variables of the
forward code still name.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edakari.core.graph import Graph
from edakari.core.layout import Layout, extent
from edakari.core.space import Group, Sizes
from edakari.cost.counts import Count, size

__all__ = ["Memory", "memory"]

INDEX_BYTES = 8
ONLY_FIRST_LIVES = ("norm", "with_indices", "attention", "pool")
"""Parts of the names of operators whose further outputs serve training: they are freed after the call."""


@dc.dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor that an operator allocates.

    Args:
        bytes: bytes of one position.
        layouts: layouts of its dimensions, and of the branches that contain it.
        born: index of the operator that makes it.
        dies: index of the last operator that reads it.
    """

    bytes: int
    layouts: tuple[Layout, ...]
    born: int
    dies: int


@dc.dataclass(frozen=True)
class Memory:
    """Peak memory as a cost; see `memory`.

    Args:
        weights: bytes of parameters and buffers.
        inputs: bytes of the network's inputs.
        buffers: tensors that its operators allocate.
        steps: number of operators.
    """

    weights: Count
    inputs: int
    buffers: tuple[Buffer, ...]
    steps: int
    name: str = "memory"
    unit: str = "B"

    def total(self, sizes: Sizes) -> float:
        """See `edakari.core.protocols.Cost.total`."""
        return float(self.weights.total(sizes) + self.inputs + self._peak(sizes, 1)[0])

    def curve(self, group: Group, sizes: Sizes) -> npt.NDArray[np.float64]:
        """See `edakari.core.protocols.Cost.curve`."""
        every: Any = np.arange(group.size + 1, dtype=np.float64)
        peak = self._peak({**sizes, group.name: every}, group.size + 1)
        return self.weights.curve(group, sizes) + self.inputs + peak

    def _peak(self, sizes: Mapping[str, Any], points: int) -> npt.NDArray[np.float64]:
        """Largest number of bytes of buffers at a time, float64 [points]."""
        change = np.zeros((self.steps + 2, points))
        for buffer in self.buffers:
            taken = buffer.bytes * math.prod(extent(layout, sizes) for layout in buffer.layouts)
            change[buffer.born] += taken
            change[buffer.dies + 1] -= taken
        peak: npt.NDArray[np.float64] = change.cumsum(axis=0).max(axis=0)
        return peak


def memory(graph: Graph, batch: int = 1) -> Memory:
    """Compute the largest number of bytes that are alive at a time during a forward pass without gradients.

    Args:
        graph: graph of the network, traced in the dtype in which it will run.
        batch: number of copies of the traced example that are computed at once.

    The zeros of a dropped branch are one number, unless code that stays writes to them. What the branch read counts as
    long as in the dense network, since its shape is needed.
    """
    roots, readers = _lifetimes(graph)
    copied = _copied(graph, roots, readers)
    unit = _float_bytes(graph)
    buffers = []
    for index, operator in enumerate(graph.operators):
        if roots[index] != index:
            continue
        around = graph.enclosing_branches(index)
        held = copied.get(index, {})
        kept = [axis for axis in around if axis.group not in held]
        for output, layouts in enumerate(operator.outputs):
            spare = output > 0 and any(word in operator.name for word in ONLY_FIRST_LIVES)
            each = batch * (INDEX_BYTES if output > 0 and "with_indices" in operator.name else unit)
            dies = index if spare else max(readers.get(index, ()), default=index)
            if held and output == 0:
                until = max(held.values())
                buffers.append(Buffer(each, (*layouts, *kept), index, until))
                buffers.append(Buffer(each, (*layouts, *around), until + 1, dies))
            else:
                buffers.append(Buffer(each, (*layouts, *around), index, dies))
    return Memory(size(graph), batch * sum(_input_bytes(graph.inputs)), tuple(buffers), len(graph.operators))


def _copied(
    graph: Graph, roots: Sequence[int | None], readers: Mapping[int, Sequence[int]]
) -> dict[int, dict[str, int]]:
    """Tensors that the modules of a dropped branch still make, because code that stays writes to them in place.

    For each of them by its operator: the branches, and the last operator that still reads it without each.
    """
    found: dict[int, dict[str, int]] = {}
    for branch in graph.droppable:
        replaced = {*branch.modules, branch.exit} if branch.copies else ()
        made = {call.output_sources[0] for call in graph.calls if call.module in replaced and call.output_sources}
        held = {roots[source] for source in made if source is not None}
        for root in (root for root in held if root is not None):
            staying = set(readers.get(root, ())).difference(branch.operators)
            found.setdefault(root, {})[branch.name] = max(staying, default=root)
    return found


def _lifetimes(graph: Graph) -> tuple[list[int | None], dict[int, list[int]]]:
    """For each operator, the one whose memory holds its output, None for weights and inputs; and who reads each."""
    roots: list[int | None] = []
    readers: dict[int, list[int]] = {}
    for index, operator in enumerate(graph.operators):
        for source in operator.sources:
            root = roots[source] if source is not None else None
            if root is not None:
                readers.setdefault(root, []).append(index)
        if _is_view(operator.name):
            first = operator.sources[0] if operator.sources else None
            roots.append(roots[first] if first is not None else None)
        else:
            roots.append(index)
    for source in next((call.output_sources for call in graph.calls if call.module == ""), ()):
        root = roots[source] if source is not None else None
        if root is not None:
            readers.setdefault(root, []).append(len(graph.operators))
    return roots, readers


@functools.cache
def _is_view(name: str) -> bool:
    """Whether an operator returns memory of its first argument, according to its schema."""
    namespace, _, short = name.partition(".")
    packet = getattr(getattr(torch.ops, namespace), short.partition(".")[0], None)
    if packet is None:
        return False
    schema = getattr(packet, packet.overloads()[0])._schema
    return any(each.alias_info is not None for each in schema.returns)


def _float_bytes(graph: Graph) -> int:
    """Bytes of a number in the network's tensors: as in its parameters, or in its inputs if it has none."""
    widths = [graph.stored[name] for name in graph.parameters if name in graph.stored]
    return max(set(widths), key=widths.count) if widths else 4


def _input_bytes(inputs: Any) -> Iterator[int]:
    if isinstance(inputs, Mapping) and "tensor" in inputs:
        shape, dtype = inputs["tensor"]
        yield math.prod(shape) * getattr(torch, dtype).itemsize
    elif isinstance(inputs, Mapping):
        for each in inputs.values():
            yield from _input_bytes(each)
    elif isinstance(inputs, list | tuple):
        for each in inputs:
            yield from _input_bytes(each)
