"""Comparisons of widths: each must have the same result in the cut network, or the code would take another path.

Examples are `if c != self.width: raise`, `assert c % heads == 0`, `if wide != narrow: x = self.shortcut(x)`. Equal
widths are tied. If unequal widths could become equal or change their order, as few positions as possible are pinned.
"""

from __future__ import annotations

import collections
import dataclasses as dc
from collections.abc import Mapping, Sequence

from edakari.graph import algebra
from edakari.graph.algebra import DimAxis, DimConcat, DimExpr, DimProduct

__all__ = ["Comparison", "hold", "terms"]

Terms = Mapping[tuple[int, ...], int]


@dc.dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of two integers in the network's code.

    Args:
        relation: relation that holds: "==", "!=", "<", "<=", or "%" if the remainder of a division matters.
        left: an integer.
        right: another integer.
        module: the module whose code compared them.
    """

    relation: str
    left: int
    right: int
    module: str


def hold(comparison: Comparison, left: DimExpr, right: DimExpr) -> None:
    """Make sure that a comparison has the same result for all legal sizes.

    Args:
        comparison: comparison of two integers.
        left: dimension that its left integer counts.
        right: dimension that its right integer counts.
    """
    left, right = algebra.resolve(left), algebra.resolve(right)
    if isinstance(left, int) and isinstance(right, int):
        return
    where = f"the code of {comparison.module or 'the network'}"
    a, b = terms(left), terms(right)
    if comparison.relation == "%":
        if not _divides(b, a):
            for dim in (left, right):
                algebra.pin(dim, f"{where} divides it, or by it, and looks at the remainder")
    elif comparison.relation == "==" or (comparison.relation == "<=" and algebra.size(left) == algebra.size(right)):
        if a != b:
            algebra.unify(left, right, f"{where} compares it with {_said(left, right)}, which is as large")
    else:
        smaller, larger = sorted((left, right), key=algebra.size)
        if not isinstance(larger, int) and not _always_less(terms(smaller), terms(larger)):
            _keep_above(larger, smaller, f"{where} compares it with {_said(larger, smaller)}, which is smaller")


def _keep_above(larger: DimExpr, smaller: DimExpr, reason: str) -> None:
    """Make sure that a dimension is always longer than another one."""
    bound = algebra.size(smaller)
    if isinstance(larger, DimAxis) and isinstance(smaller, int):
        larger.least = max(larger.least, bound + 1)
        if larger.least >= larger.size:
            algebra.pin(larger, reason)
    elif bound == 1 and not isinstance(larger, DimConcat):
        longest = max(algebra.leaves(larger), key=lambda axis: axis.size)
        _keep_above(longest, 1, reason)
    elif bound > 1 or not isinstance(larger, DimConcat):
        algebra.pin(larger, reason)


def _said(*dims: DimExpr) -> str:
    numbers = [str(dim) for dim in dims if isinstance(dim, int)]
    return numbers[0] if numbers else "another width"


def _divides(divisor: Terms, whole: Terms) -> bool:
    """Whether one term divides every term of a polynomial."""
    if len(divisor) != 1:
        return False
    ((factors, count),) = divisor.items()
    return all(many % count == 0 and _contains(product, factors) for product, many in whole.items())


def _contains(product: Sequence[int], factors: Sequence[int]) -> bool:
    rest = list(product)
    for factor in factors:
        if factor not in rest:
            return False
        rest.remove(factor)
    return True


def _always_less(smaller: Terms, larger: Terms) -> bool:
    """Whether one polynomial is less than another for all sizes from 1 on, term by term."""
    return smaller != larger and all(larger.get(product, 0) >= many for product, many in smaller.items())


def terms(dim: DimExpr) -> Terms:
    """The number of positions as a polynomial: for each product of axes, by their ids, its coefficient."""
    dim = algebra.resolve(dim)
    if isinstance(dim, int):
        return {(): dim}
    if isinstance(dim, DimAxis):
        return {(id(dim),): 1}
    found: collections.Counter[tuple[int, ...]] = collections.Counter()
    if isinstance(dim, DimProduct):
        found[()] = 1
        for part in dim:
            found = _multiplied(found, terms(part))
    else:
        for part in dim:
            found.update(terms(part))
    return found


def _multiplied(left: Terms, right: Terms) -> collections.Counter[tuple[int, ...]]:
    found: collections.Counter[tuple[int, ...]] = collections.Counter()
    for a, many in left.items():
        for b, times in right.items():
            found[tuple(sorted((*a, *b)))] += many * times
    return found
