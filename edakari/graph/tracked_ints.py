"""Integers that remember which dimension they count.

Code computes shapes with plain integers: `B, N, C = x.shape`, then `x.reshape(B, N, self.heads, C // self.heads)`.
While a network is traced, sizes of prunable dimensions and integer attributes of its modules are `TrackedInt`s, which
pass through arithmetic. When one becomes the size of a dimension, this dimension and the one that it counts must stay
equally long. An attribute that counted a dimension in the trace follows it when the network is cut.
"""

from __future__ import annotations

import contextvars
import dataclasses as dc
import dis
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from edakari.graph import algebra
from edakari.graph.algebra import DimExpr, DimProduct
from edakari.graph.comparisons import Comparison, hold, terms

__all__ = ["LISTENER", "Attribute", "IntTracker", "TrackedInt", "tracked"]


@dc.dataclass(frozen=True, slots=True)
class Extent:
    """The size of a traced dimension."""

    dim: DimExpr


@dc.dataclass(frozen=True, slots=True)
class Attribute:
    """An integer attribute of a module; an integer in a tuple is named `name.position`."""

    module: str
    name: str


@dc.dataclass(frozen=True, slots=True)
class Computed:
    """The result of a sum ("+"), difference ("-"), product ("*") or exact quotient ("/")."""

    sign: str
    left: int
    right: int


Source = Extent | Attribute | Computed


R = TypeVar("R")

Compared = Callable[[str, Any, Any], None]

LISTENER: contextvars.ContextVar[Compared | None] = contextvars.ContextVar("LISTENER", default=None)
"""Callback for each comparison of tracked integers in the network's code."""


class TrackedInt(int):
    """An integer with its source."""

    source: Source

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return _told(int.__eq__(self, other), "==", "!=", self, other, _by_operator)

    def __ne__(self, other: object) -> bool:
        return _told(int.__ne__(self, other), "!=", "==", self, other, _by_operator)

    def __lt__(self, other: Any) -> bool:
        return _told(int.__lt__(self, other), "<", ">=", self, other)

    def __le__(self, other: Any) -> bool:
        return _told(int.__le__(self, other), "<=", ">", self, other)

    def __gt__(self, other: Any) -> bool:
        return _told(int.__gt__(self, other), ">", "<=", self, other)

    def __ge__(self, other: Any) -> bool:
        return _told(int.__ge__(self, other), ">=", "<", self, other)

    def __mod__(self, other: Any) -> Any:
        return _told(int.__mod__(self, other), "%", "%", self, other)

    def __mul__(self, other: Any) -> Any:
        return _computed(int.__mul__(self, other), "*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _computed(int.__rmul__(self, other), "*", other, self)

    def __add__(self, other: Any) -> Any:
        return _computed(int.__add__(self, other), "+", self, other)

    def __radd__(self, other: Any) -> Any:
        return _computed(int.__radd__(self, other), "+", other, self)

    def __sub__(self, other: Any) -> Any:
        return _computed(int.__sub__(self, other), "-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _computed(int.__rsub__(self, other), "-", other, self)

    def __floordiv__(self, other: Any) -> Any:
        result = int.__floordiv__(self, other)
        exact = isinstance(other, int) and result is not NotImplemented and result * int(other) == int(self)
        return _computed(result, "/", self, other) if exact else result


def _told(result: R, held: str, otherwise: str, left: Any, right: Any, counts: Callable[[Any], bool] = bool) -> R:
    """Return the result of a comparison after calling LISTENER with it."""
    listener = LISTENER.get()
    if listener is not None and result is not NotImplemented and isinstance(right, int):
        frame = sys._getframe(2)
        if not frame.f_globals.get("__name__", "").startswith("edakari.graph") and counts(frame):
            relation = held if result else otherwise
            if relation[0] == ">":
                relation, left, right = relation.replace(">", "<"), right, left
            listener(relation, left, right)
    return result


def _by_operator(frame: Any) -> bool:
    """Whether code compares by an operator: keys of dicts and caches are compared too, but nothing depends on those."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in ("COMPARE_OP", "CONTAINS_OP")


def tracked(value: int, source: Source) -> TrackedInt:
    """Create an integer with its source."""
    made = TrackedInt(value)
    made.source = source
    return made


def _computed(value: Any, sign: str, left: Any, right: Any) -> Any:
    return value if value is NotImplemented or value < 2 else tracked(value, Computed(sign, left, right))


class IntTracker:
    """Notes which dimensions the integers of one traced forward pass count.

    Args:
        notes: dimension that each (module, attribute) counts; the tracker adds to it.
        dims_of: function that returns the symbolic shape of a tensor.
        unify: function that states that two dimensions hold the same positions.
        running: function that returns the dotted path of the module whose code runs; None for code that does not
            matter.
        known: dimensions that attributes count, known before the forward pass.
    """

    def __init__(
        self,
        notes: dict[tuple[str, str], DimExpr],
        dims_of: Callable[[torch.Tensor], Sequence[DimExpr]],
        unify: Callable[[DimExpr, DimExpr], None],
        running: Callable[[], str | None] = lambda: None,
        known: Mapping[tuple[str, str], DimExpr] = types.MappingProxyType({}),
    ) -> None:
        self.notes = notes
        self.running = running
        self.known = known
        self.comparisons: list[Comparison] = []
        self.dims_of = dims_of
        self.unify = unify
        self.literal: list[DimExpr] = []
        """Dimensions whose size was given by an integer of unknown origin."""

    def shape(self, tensor: torch.Tensor, shape: torch.Size) -> torch.Size:
        """Return a tensor's shape, with sizes of prunable dimensions as tracked integers."""
        dims = self.dims_of(tensor)
        if all(isinstance(dim, int) for dim in dims):
            return shape
        return torch.Size([_extent(dim, size) for dim, size in zip(dims, shape, strict=True)])

    def seen(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Any:
        """Return the result of a torch function, with tracked sizes; note what integers among its arguments count."""
        if function == SHAPE:
            return self.shape(args[0], out)
        if function is torch.Tensor.size:
            chosen = args[1] if len(args) > 1 else kwargs.get("dim")
            shape = self.shape(args[0], args[0].shape)
            return shape if chosen is None else shape[chosen]
        self.used(function, args, kwargs, out)
        return out

    def used(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Note tracked integers that a call of a torch function uses as sizes of its result."""
        pair = SIZES.get(function)
        if pair is None:
            return
        stated = list(pair(self, args, kwargs, out))
        # plain ones first: what is computed from them depends on what they count
        stated.sort(key=lambda each: isinstance(each[0].source, Computed))
        for each, dim in stated:
            self.state(each, dim)

    def compared(self, relation: str, left: Any, right: Any) -> None:
        """Note a relation between two integers that code found."""
        module = self.running()
        if module is None:
            return
        self.comparisons.append(Comparison(relation, left, right, module))
        if relation == "==" or (relation == "<=" and int(left) == int(right)):
            for one, other in ((left, right), (right, left)):
                known = self.meaning(one) if isinstance(one, TrackedInt) else None
                if known is not None and isinstance(other, TrackedInt) and self.meaning(other) is None:
                    self.state(other, known)

    def hold(self) -> None:
        """Make sure that all comparisons have the same results for all legal sizes; equalities are handled first."""
        for comparison in sorted(self.comparisons, key=lambda each: each.relation != "=="):
            hold(comparison, *map(self._meaning_kept, (comparison.left, comparison.right)))

    def _meaning_kept(self, each: int) -> DimExpr:
        """Dimension that a compared integer counts; an integer that counts none is fixed."""
        known = self.meaning(each)
        if known is not None and algebra.size(known) == each:
            return known
        if isinstance(each, TrackedInt) and isinstance(each.source, Attribute):
            self.notes.setdefault((each.source.module, each.source.name), int(each))
        elif isinstance(each, TrackedInt) and isinstance(each.source, Computed):
            for part in (each.source.left, each.source.right):
                self._meaning_kept(part)
        return int(each)

    def state(self, each: int, dim: DimExpr) -> None:
        """State that an integer is the size of a dimension."""
        if not isinstance(each, TrackedInt) or int(each) != algebra.size(dim):
            return
        known = self.meaning(each)
        if known is not None:
            if terms(known) != terms(dim):
                self.unify(known, dim)
        elif isinstance(each.source, Attribute):
            self.notes[each.source.module, each.source.name] = dim
        elif isinstance(each.source, Computed):
            self._state_computed(each.source, dim)

    def _state_computed(self, source: Computed, dim: DimExpr) -> None:
        left, right = source.left, source.right
        if source.sign == "*":
            parts = algebra.split(dim, int(left)) or (int(left), int(right))
            self.state(left, parts[0])
            self.state(right, parts[1])
            if not isinstance(left, TrackedInt):
                algebra.settle(parts[0])
        elif source.sign == "+":
            pieces = algebra.cut(dim, int(left)) or (int(left), int(right))
            self.state(left, pieces[0])
            self.state(right, pieces[1])
        elif source.sign == "/":
            self.state(left, algebra.product([self.meaning(right) or int(right), dim]))
        else:
            self.state(left, algebra.concat([self.meaning(right) or int(right), dim]))

    def meaning(self, each: int) -> DimExpr | None:
        """Dimension that an integer counts; None if it is not known yet."""
        if not isinstance(each, TrackedInt):
            return int(each)
        source = each.source
        if isinstance(source, Extent):
            return algebra.resolve(source.dim)
        if isinstance(source, Attribute):
            key = (source.module, source.name)
            return self.notes.get(key, self.known.get(key))
        left, right = self.meaning(source.left), self.meaning(source.right)
        if left is None or right is None:
            return None
        if source.sign == "*":
            return algebra.product([left, right])
        return algebra.concat([left, right]) if source.sign == "+" else _rest(left, right, source.sign)


def _extent(dim: DimExpr, size: int) -> int:
    return size if isinstance(dim, int) or isinstance(algebra.resolve(dim), int) else tracked(size, Extent(dim))


def _rest(whole: DimExpr, part: DimExpr, sign: str) -> DimExpr | None:
    """The rest of a product or concatenation without one of its ends; None if `part` is no end of it."""
    whole = algebra.resolve(whole)
    join = algebra.product if sign == "/" else algebra.concat
    parts = list(whole) if isinstance(whole, DimProduct if sign == "/" else algebra.DimConcat) else [whole]
    for count in range(1, len(parts)):
        for end, rest in ((parts[:count], parts[count:]), (parts[-count:], parts[:-count])):
            if terms(join(end)) == terms(part):
                return join(rest)
    return None


SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]

Stated = Iterator[tuple[TrackedInt, DimExpr]]

Pairs = Callable[[IntTracker, Sequence[Any], Mapping[str, Any], Any], Stated]
"""Finds which integers among a function's arguments are sizes, each with the dimension of that size."""

SIZES: dict[Any, Pairs] = {}
"""Functions that take sizes; filled by `graph/shape_operators.py`."""
