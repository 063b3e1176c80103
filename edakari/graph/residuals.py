"""Residual sums: additions of two computed tensors of the same shape; and sums of tensors that were stacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edakari.core.graph import Operator
from edakari.core.layout import Axis, Concat, Fixed, Layout, Product, extent
from edakari.graph.algebra import DimExpr, size
from edakari.graph.operators import named
from edakari.graph.records import OperatorRecord

__all__ = ["residual_sums", "stacked_sums"]

SUMS = frozenset(named("addition"))
STACKS = frozenset(named("stack"))
TOTALS = frozenset({"aten.sum", "aten.mean"})


def residual_sums(operators: Sequence[Operator | OperatorRecord]) -> Iterator[int]:
    """Yield the indices of the additions of two different tensors of one shape, neither of them a parameter or buffer.

    This does not tell which side is the branch: `y = x + f(x)` reads the same from both.

    Args:
        operators: operators of a graph, or records of a trace.
    """
    for index, operator in enumerate(operators):
        if operator.name in SUMS and len(operator.sources) == 2:
            left, right = ([_length(dim) for dim in dims] for dims in operator.inputs[:2])
            if left == right:
                yield index


def stacked_sums(operators: Sequence[Operator | OperatorRecord]) -> Iterator[int]:
    """Yield the indices of the stacks that are read by sums or means over the stacked dimension only.

    So do `torch.stack([x, y, z]).sum(0)` and `.mean(0)` add tensors.

    Args:
        operators: operators of a graph, or records of a trace.
    """
    readers: dict[int | None, list[int]] = {}
    for index, operator in enumerate(operators):
        for source in operator.sources:
            readers.setdefault(source, []).append(index)

    def adds(reader: int, part: list[int]) -> bool:
        operator = operators[reader]
        return operator.name in TOTALS and [_length(dim) for dim in operator.outputs[0]] == part

    for index, operator in enumerate(operators):
        if operator.name in STACKS and len(operator.sources) > 1 and index in readers:
            part = [_length(dim) for dim in operator.inputs[0]]
            if all(adds(reader, part) for reader in readers[index]):
                yield index


def _length(dim: DimExpr | Layout) -> int:
    return int(extent(dim, {})) if isinstance(dim, Fixed | Axis | Product | Concat) else size(dim)
