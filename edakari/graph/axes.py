"""The algebra of axes while tracing: what every dimension is made of, refined as operators tell more.

An expression describes one dimension. An `int` is a run of positions that nothing may remove; an `Axis` may become a
group; a `Product` nests parts in row-major order and a `Concat` lays them side by side. Axes are nodes of a
union-find: one that turns out to be made of parts (12 = heads times head dimension) gets these parts as its value, and
everything that mentions it sees them at once. Where two descriptions cannot be reconciled, their axes are pinned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "Axis",
    "Concat",
    "Expression",
    "Product",
    "concat",
    "cut",
    "fresh",
    "leaves",
    "pin",
    "pins",
    "product",
    "resolve",
    "settle",
    "size",
    "split",
    "unify",
]


class Product(tuple["Expression", ...]):
    """Parts nested in row-major order."""

    __slots__ = ()


class Concat(tuple["Expression", ...]):
    """Parts side by side."""

    __slots__ = ()


class Axis:
    """A node of the union-find.

    Args:
        size: number of positions; at least 2 where it is free.
        kinds: what operators learned of it, such as "head".
        group: name of the group that it is known to be; it never takes another axis' place.
    """

    __slots__ = ("group", "kinds", "least", "pinned", "size", "value")

    def __init__(self, size: int, kinds: Iterable[str] = (), group: str = "") -> None:
        self.size = size
        self.kinds = set(kinds)
        self.group = group
        self.least = 1  # the network runs with so many positions at least
        self.pinned: str | None = None
        self.value: Expression | None = None


Expression = int | Axis | Product | Concat


def fresh(size: int) -> Expression:
    """A new axis; a single position needs none."""
    return Axis(size) if size > 1 else size


def size(expression: Expression) -> int:
    """Number of positions."""
    if isinstance(expression, int):
        return expression
    if isinstance(expression, Axis):
        return expression.size
    if isinstance(expression, Product):
        return math.prod(size(part) for part in expression)
    return sum(size(part) for part in expression)


def resolve(expression: Expression) -> Expression:
    """The same dimension in canonical form: roots only, nothing nested needlessly, pinned axes as ints."""
    if isinstance(expression, int):
        return expression
    if isinstance(expression, Axis):
        if expression.pinned is not None:
            return expression.size
        if expression.value is None:
            return expression
        found = resolve(expression.value)
        if isinstance(found, Axis):
            expression.value = found  # shorter path; a value that holds pinned axes keeps them, with their reasons
        return found
    if isinstance(expression, Product):
        return product(expression)
    return concat(expression)


def product(parts: Iterable[Expression]) -> Expression:
    """Parts nested in row-major order, in canonical form."""
    flat: list[Expression] = []
    for part in parts:
        part = resolve(part)
        for factor in part if isinstance(part, Product) else (part,):
            if isinstance(factor, int) and flat and isinstance(flat[-1], int):
                flat[-1] *= factor
            elif factor != 1:
                flat.append(factor)
    if len(flat) > 1:
        return Product(flat)
    return flat[0] if flat else 1


def concat(parts: Iterable[Expression]) -> Expression:
    """Parts side by side, in canonical form."""
    flat: list[Expression] = []
    for part in parts:
        part = resolve(part)
        for block in part if isinstance(part, Concat) else (part,):
            if isinstance(block, int) and flat and isinstance(flat[-1], int):
                flat[-1] += block
            elif block != 0:
                flat.append(block)
    if len(flat) > 1:
        return Concat(flat)
    return flat[0] if flat else 0


def leaves(expression: Expression) -> Iterator[Axis]:
    """The free axes of a dimension, in order."""
    expression = resolve(expression)
    if isinstance(expression, Axis):
        yield expression
    elif not isinstance(expression, int):
        for part in expression:
            yield from leaves(part)


def pin(expression: Expression, reason: str) -> None:
    """Make every free axis of a dimension stay whole."""
    for axis in list(leaves(expression)):
        axis.pinned = reason


def settle(expression: Expression) -> None:
    """Make a dimension stay whole without saying why: nobody would look for a reason."""
    pin(expression, "")


def pins(expression: Expression) -> Iterator[tuple[int, str]]:
    """Positions that stay, with the reason, among what a dimension turned out to be made of."""
    if isinstance(expression, Axis):
        if expression.pinned:
            yield expression.size, expression.pinned
        elif expression.value is not None:
            yield from pins(expression.value)
    elif isinstance(expression, Concat) or not any(True for _ in leaves(expression)):
        # inside of a product with a free part every position can go, so what is pinned there takes nothing away
        for part in () if isinstance(expression, int) else expression:
            yield from pins(part)


def _define(axis: Axis, value: Expression) -> None:
    if isinstance(value, Axis):
        value.kinds |= axis.kinds
        value.least = max(value.least, axis.least)
    axis.value = value


def split(expression: Expression, outer: int) -> tuple[Expression, Expression] | None:
    """A dimension as an outer part of `outer` positions times an inner part; None where it is not such a product."""
    expression = resolve(expression)
    total = size(expression)
    if total % outer:
        return None
    inner = total // outer
    if outer == 1:
        return 1, expression
    if inner == 1:
        return expression, 1
    if isinstance(expression, int):
        return outer, inner
    if isinstance(expression, Axis):
        parts = (Axis(outer), Axis(inner))
        _define(expression, Product(parts))
        return parts
    if isinstance(expression, Product):
        return _split_product(expression, outer)
    if any(size(block) % inner for block in expression):
        return _split_rows(expression, outer, inner)
    parts = (Axis(outer), Axis(inner))
    unify(expression, Product(parts), "a reshape runs across the parts of a concatenation")
    return product(parts[:1]), product(parts[1:])


def _split_rows(blocks: Concat, outer: int, inner: int) -> tuple[Expression, Expression] | None:
    """A concatenation as rows of `inner` positions each, which then are all alike."""
    rows = _blocks(blocks, [inner] * outer)
    if rows is None:
        return None
    for row in rows[1:]:
        unify(rows[0], row, "a reshape runs across the parts of a concatenation")
    return outer, resolve(rows[0])


def _split_product(parts: Product, outer: int) -> tuple[Expression, Expression] | None:
    before: list[Expression] = []
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


def cut(expression: Expression, at: int) -> tuple[Expression, Expression] | None:
    """A dimension as its first `at` positions and the rest; None where the cut runs through a product."""
    expression = resolve(expression)
    total = size(expression)
    if at == 0:
        return 0, expression
    if at == total:
        return expression, 0
    if isinstance(expression, int):
        return at, total - at
    if isinstance(expression, Axis):
        parts = (_run(at), _run(total - at))
        _define(expression, Concat(parts))
        return parts
    if isinstance(expression, Concat):
        return _cut_concat(expression, at)
    first, rest = expression[0], product(expression[1:])
    inner = size(rest)
    halves = cut(first, at // inner) if at % inner == 0 else None
    if halves is None:
        return None
    return product([halves[0], rest]), product([halves[1], rest])


def _run(length: int) -> Axis:
    """Some positions of an axis; where it is but one, taking it away would leave nothing."""
    axis = Axis(length)
    if length == 1:
        axis.pinned = "a slice or split takes one position by itself"
    return axis


def _cut_concat(blocks: Concat, at: int) -> tuple[Expression, Expression] | None:
    for index, block in enumerate(blocks):
        length = size(block)
        if at < length:
            halves = cut(block, at)
            if halves is None:
                return None
            return concat([*blocks[:index], halves[0]]), concat([halves[1], *blocks[index + 1 :]])
        at -= length
    return None


def unify(left: Expression, right: Expression, reason: str) -> None:
    """State that two descriptions are of the same positions; refines both.

    Args:
        left: a dimension.
        right: another of the same size.
        reason: why axes are pinned where the two cannot be reconciled.
    """
    left, right = resolve(left), resolve(right)
    if left is right or (type(left) is type(right) and left == right):
        return
    if isinstance(left, int) or isinstance(right, int) or size(left) != size(right):
        pin(left, reason)
        pin(right, reason)
    elif isinstance(left, Axis) and not (left.group and isinstance(right, Axis) and not right.group):
        _refine(left, right, reason)
    elif isinstance(right, Axis):
        _refine(right, left, reason)
    elif isinstance(left, Product) and isinstance(right, Product):
        _unify_products(list(left), list(right), reason)
    else:
        _unify_blocks(left, right, reason)


def _refine(axis: Axis, value: Expression, reason: str) -> None:
    if any(leaf is axis for leaf in leaves(value)):
        pin(value, reason)
    else:
        _define(axis, value)


def _unify_products(left: list[Expression], right: list[Expression], reason: str) -> None:
    while left and right:
        a, b = resolve(left.pop(0)), resolve(right.pop(0))
        if isinstance(a, Product) or isinstance(b, Product):
            left[:0] = a if isinstance(a, Product) else (a,)
            right[:0] = b if isinstance(b, Product) else (b,)
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


def _blocks(expression: Expression, lengths: Sequence[int]) -> list[Expression] | None:
    parts: list[Expression] = []
    rest = expression
    for length in lengths:
        halves = cut(rest, length)
        if halves is None:
            return None
        parts.append(halves[0])
        rest = halves[1]
    return parts


def _lengths(expression: Expression) -> list[int]:
    return [size(part) for part in expression] if isinstance(expression, Concat) else [size(expression)]


def _unify_blocks(left: Expression, right: Expression, reason: str) -> None:
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
