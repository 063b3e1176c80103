"""The algebra of dimensions while tracing: the structure of each dimension, refined as operators reveal more of it.

A `DimExpr` describes one dimension. An `int` is a run of positions that cannot be removed, a `DimAxis` may become a
group, a `DimProduct` nests parts in row-major order, and a `DimConcat` concatenates them. Axes are nodes of a
union-find. An axis that turns out to consist of parts (12 = heads times head dimension) takes these parts as its value,
and all expressions that contain it see them at once. If two descriptions cannot be reconciled, their axes are pinned.

After the trace, `graph/freezing.py` converts every `DimExpr` to an immutable `Layout` of `core/layout.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "DimAxis",
    "DimConcat",
    "DimExpr",
    "DimProduct",
    "concat",
    "cut",
    "fresh",
    "leaves",
    "pin",
    "product",
    "resolve",
    "settle",
    "size",
    "split",
    "unify",
]


class DimProduct(tuple["DimExpr", ...]):
    """Parts nested in row-major order."""

    __slots__ = ()


class DimConcat(tuple["DimExpr", ...]):
    """Concatenated parts."""

    __slots__ = ()


class DimAxis:
    """A node of the union-find.

    Args:
        size: number of positions; a free axis has at least 2.
        kinds: what operators revealed about the axis, such as "head".
        group: name of its group, if known; such an axis is never replaced by another one.
    """

    __slots__ = ("group", "kinds", "least", "pinned", "size", "value")

    def __init__(self, size: int, kinds: Iterable[str] = (), group: str = "") -> None:
        self.size = size
        self.kinds = set(kinds)
        self.group = group
        self.least = 1  # smallest number of positions with which the network runs
        self.pinned: str | None = None
        self.value: DimExpr | None = None


DimExpr = int | DimAxis | DimProduct | DimConcat


def fresh(size: int) -> DimExpr:
    """Create a new axis; a single position stays the integer 1."""
    return DimAxis(size) if size > 1 else size


def size(dim: DimExpr) -> int:
    """Number of positions."""
    if isinstance(dim, int):
        return dim
    if isinstance(dim, DimAxis):
        return dim.size
    if isinstance(dim, DimProduct):
        return math.prod(size(part) for part in dim)
    return sum(size(part) for part in dim)


def resolve(dim: DimExpr) -> DimExpr:
    """The same dimension in canonical form: roots only, nothing nested needlessly, pinned axes as ints."""
    if isinstance(dim, int):
        return dim
    if isinstance(dim, DimAxis):
        if dim.pinned is not None:
            return dim.size
        if dim.value is None:
            return dim
        found = resolve(dim.value)
        if isinstance(found, DimAxis):
            dim.value = found  # shorter path; a value that holds pinned axes keeps them, with their reasons
        return found
    if isinstance(dim, DimProduct):
        return product(dim)
    return concat(dim)


def product(parts: Iterable[DimExpr]) -> DimExpr:
    """Parts nested in row-major order, in canonical form."""
    flat: list[DimExpr] = []
    for part in parts:
        part = resolve(part)
        for factor in part if isinstance(part, DimProduct) else (part,):
            if isinstance(factor, int) and flat and isinstance(flat[-1], int):
                flat[-1] *= factor
            elif factor != 1:
                flat.append(factor)
    if len(flat) > 1:
        return DimProduct(flat)
    return flat[0] if flat else 1


def concat(parts: Iterable[DimExpr]) -> DimExpr:
    """Concatenated parts, in canonical form."""
    flat: list[DimExpr] = []
    for part in parts:
        part = resolve(part)
        for block in part if isinstance(part, DimConcat) else (part,):
            if isinstance(block, int) and flat and isinstance(flat[-1], int):
                flat[-1] += block
            elif block != 0:
                flat.append(block)
    if len(flat) > 1:
        return DimConcat(flat)
    return flat[0] if flat else 0


def leaves(dim: DimExpr) -> Iterator[DimAxis]:
    """The free axes of a dimension, in order."""
    dim = resolve(dim)
    if isinstance(dim, DimAxis):
        yield dim
    elif not isinstance(dim, int):
        for part in dim:
            yield from leaves(part)


def pin(dim: DimExpr, reason: str) -> None:
    """Pin every free axis of a dimension: none of its positions can be pruned."""
    for axis in list(leaves(dim)):
        axis.pinned = reason


def settle(dim: DimExpr) -> None:
    """Pin every free axis of a dimension without a reason, as reporting it would not help users."""
    pin(dim, "")


def _define(axis: DimAxis, value: DimExpr) -> None:
    if isinstance(value, DimAxis):
        value.kinds |= axis.kinds
        value.least = max(value.least, axis.least)
    axis.value = value


def split(dim: DimExpr, outer: int) -> tuple[DimExpr, DimExpr] | None:
    """Split a dimension into an outer part of `outer` positions and an inner part; None if it is no such product."""
    dim = resolve(dim)
    total = size(dim)
    if total % outer:
        return None
    inner = total // outer
    if outer == 1:
        return 1, dim
    if inner == 1:
        return dim, 1
    if isinstance(dim, int):
        return outer, inner
    if isinstance(dim, DimAxis):
        parts = (DimAxis(outer), DimAxis(inner))
        _define(dim, DimProduct(parts))
        return parts
    if isinstance(dim, DimProduct):
        return _split_product(dim, outer)
    if any(size(block) % inner for block in dim):
        return _split_rows(dim, outer, inner)
    parts = (DimAxis(outer), DimAxis(inner))
    unify(dim, DimProduct(parts), "a reshape runs across the parts of a concatenation")
    return product(parts[:1]), product(parts[1:])


def _split_rows(blocks: DimConcat, outer: int, inner: int) -> tuple[DimExpr, DimExpr] | None:
    """Split a concatenation into rows of `inner` positions each, and unify the rows."""
    rows = _blocks(blocks, [inner] * outer)
    if rows is None:
        return None
    for row in rows[1:]:
        unify(rows[0], row, "a reshape runs across the parts of a concatenation")
    return outer, resolve(rows[0])


def _split_product(parts: DimProduct, outer: int) -> tuple[DimExpr, DimExpr] | None:
    before: list[DimExpr] = []
    for index, part in enumerate(parts):
        length = size(part)
        if outer % length == 0:
            before.append(part)
            outer //= length
            if outer == 1:
                return product(before), product(parts[index + 1 :])
            continue
        halves = split(part, outer) if length % outer == 0 else None
        if halves is None:
            return None
        return product([*before, halves[0]]), product([halves[1], *parts[index + 1 :]])
    return None


def cut(dim: DimExpr, at: int) -> tuple[DimExpr, DimExpr] | None:
    """Split a dimension into its first `at` positions and the rest; None if the cut runs through a product."""
    dim = resolve(dim)
    total = size(dim)
    if at == 0:
        return 0, dim
    if at == total:
        return dim, 0
    if isinstance(dim, int):
        return at, total - at
    if isinstance(dim, DimAxis):
        parts = (_run(at), _run(total - at))
        _define(dim, DimConcat(parts))
        return parts
    if isinstance(dim, DimConcat):
        return _cut_concat(dim, at)
    first, rest = dim[0], product(dim[1:])
    inner = size(rest)
    halves = cut(first, at // inner) if at % inner == 0 else None
    if halves is None:
        return None
    return product([halves[0], rest]), product([halves[1], rest])


def _run(length: int) -> DimAxis:
    """An axis for a run of positions; a single position is pinned, because removing it would leave nothing."""
    axis = DimAxis(length)
    if length == 1:
        axis.pinned = "a slice or split takes one position by itself"
    return axis


def _cut_concat(blocks: DimConcat, at: int) -> tuple[DimExpr, DimExpr] | None:
    for index, block in enumerate(blocks):
        length = size(block)
        if at < length:
            halves = cut(block, at)
            if halves is None:
                return None
            return concat([*blocks[:index], halves[0]]), concat([halves[1], *blocks[index + 1 :]])
        at -= length
    return None


def unify(left: DimExpr, right: DimExpr, reason: str) -> None:
    """State that two descriptions are of the same positions; this refines both.

    Args:
        left: a dimension.
        right: another dimension of the same size.
        reason: reason for pinning axes if the two cannot be reconciled.
    """
    left, right = resolve(left), resolve(right)
    if left is right or (type(left) is type(right) and left == right):
        return
    if isinstance(left, int) or isinstance(right, int) or size(left) != size(right):
        pin(left, reason)
        pin(right, reason)
    elif isinstance(left, DimAxis) and not (left.group and isinstance(right, DimAxis) and not right.group):
        _refine(left, right, reason)
    elif isinstance(right, DimAxis):
        _refine(right, left, reason)
    elif isinstance(left, DimProduct) and isinstance(right, DimProduct):
        _unify_products(list(left), list(right), reason)
    else:
        _unify_blocks(left, right, reason)


def _refine(axis: DimAxis, value: DimExpr, reason: str) -> None:
    if any(leaf is axis for leaf in leaves(value)):
        pin(value, reason)
    else:
        _define(axis, value)


def _unify_products(left: list[DimExpr], right: list[DimExpr], reason: str) -> None:
    while left and right:
        a, b = resolve(left.pop(0)), resolve(right.pop(0))
        if isinstance(a, DimProduct) or isinstance(b, DimProduct):
            left[:0] = a if isinstance(a, DimProduct) else (a,)
            right[:0] = b if isinstance(b, DimProduct) else (b,)
            continue
        if size(a) == size(b):
            unify(a, b, reason)
            continue
        longer, shorter, rest = (a, b, left) if size(a) > size(b) else (b, a, right)
        halves = split(longer, size(shorter))
        if halves is None:
            for part in (a, b, *left, *right):
                pin(part, reason)
            return
        unify(shorter, halves[0], reason)
        rest.insert(0, halves[1])


def _blocks(dim: DimExpr, lengths: Sequence[int]) -> list[DimExpr] | None:
    parts: list[DimExpr] = []
    rest = dim
    for length in lengths:
        halves = cut(rest, length)
        if halves is None:
            return None
        parts.append(halves[0])
        rest = halves[1]
    return parts


def _lengths(dim: DimExpr) -> list[int]:
    return [size(part) for part in dim] if isinstance(dim, DimConcat) else [size(dim)]


def _unify_blocks(left: DimExpr, right: DimExpr, reason: str) -> None:
    ends = sorted({end for side in (left, right) for end in _ends(_lengths(side))})
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    a = _blocks(left, lengths)
    b = _blocks(right, lengths) if a is not None else None
    if a is None or b is None:
        pin(left, reason)
        pin(right, reason)
        return
    for x, y in zip(a, b, strict=True):
        unify(x, y, reason)


def _ends(lengths: Iterable[int]) -> Iterator[int]:
    end = 0
    for length in lengths:
        end += length
        yield end
