"""The effect of a reshape on dimensions: splits and joins them as products in row-major order."""

from __future__ import annotations

from collections.abc import Sequence

from edakari.graph.algebra import DimExpr, DimProduct, leaves, pin, product, resolve, size, split

__all__ = ["regroup"]


def regroup(dims: Sequence[DimExpr], shape: Sequence[int], reason: str) -> list[DimExpr]:
    """Reshape dimensions: split and join them as products in row-major order.

    Args:
        dims: dimensions before the reshape.
        shape: sizes after the reshape.
        reason: reason for pinning axes if a new size runs across them.
    """
    if all(isinstance(dim, int) for dim in dims):
        return list(shape)
    queue: list[DimExpr] = []
    for dim in dims:
        dim = resolve(dim)
        queue.extend(dim if isinstance(dim, DimProduct) else (dim,))
    queue = [part for part in queue if part != 1]
    result: list[DimExpr] = []
    for length in shape:
        taken = _take(queue, length)
        if taken is None:
            for part in queue:
                pin(part, reason)
            return [*result, *shape[len(result) :]]
        result.append(taken)
    return result


def _take(queue: list[DimExpr], length: int) -> DimExpr | None:
    taken: list[DimExpr] = []
    while length > 1:
        if not queue:
            return None
        part = resolve(queue.pop(0))
        if isinstance(part, DimProduct):
            queue[:0] = part
            continue
        extent = size(part)
        if length % extent == 0:
            taken.append(part)
            length //= extent
            continue
        halves = split(part, length) if extent % length == 0 else None
        if halves is None:
            return _take_run(queue, [*taken, part], length)
        taken.append(halves[0])
        queue.insert(0, halves[1])
        length = 1
    return product(taken)


def _take_run(queue: list[DimExpr], taken: list[DimExpr], length: int) -> DimExpr | None:
    # sizes that do not nest, such as 4 x 6 viewed as 6 x 4, are harmless while nothing in the run can be pruned
    last = taken[-1]
    if any(True for part in taken for _ in leaves(part)) or not isinstance(last, int):
        queue.insert(0, last)
        queue[:0] = taken[:-1]
        return None
    total = last
    while total % length:
        if not queue or not isinstance(queue[0], int):
            queue[:0] = taken
            return None
        total *= size(queue.pop(0))
    if total // length > 1:
        queue.insert(0, total // length)
    return product([*taken[:-1], length])
