"""Extents of layouts as polynomials in the sizes of groups."""

from __future__ import annotations

import collections
import functools

from edakari.core.layout import Axis, Concat, Fixed, Layout, Product

__all__ = ["Monomials", "multiplied", "polynomial"]

Monomials = dict[tuple[str, ...], int]
"""A polynomial: maps the names of the groups that are multiplied, sorted and with repeats, to their coefficient."""


def polynomial(layout: Layout) -> Monomials:
    """Return the number of positions of a layout as a polynomial."""
    match layout:
        case Fixed(size):
            return {(): size}
        case Axis(group):
            return {(group,): 1}
        case Product(parts):
            return functools.reduce(multiplied, map(polynomial, parts), {(): 1})
        case Concat(parts):
            total: Monomials = collections.Counter()
            for part in parts:
                for names, coefficient in polynomial(part).items():
                    total[names] += coefficient
            return total


def multiplied(left: Monomials, right: Monomials) -> Monomials:
    """Return the product of two polynomials."""
    product: Monomials = collections.Counter()
    for a, x in left.items():
        for b, y in right.items():
            product[tuple(sorted(a + b))] += x * y
    return product
