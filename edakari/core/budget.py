"""Budgets: what the pruned network may cost."""

from __future__ import annotations

import dataclasses as dc
import math
import re
from collections.abc import Mapping

from edakari.core.costs import Cost
from edakari.core.space import Sizes
from edakari.errors import BudgetError

__all__ = ["Budget", "Limits", "Term"]

COUNTED = ("macs", "flops", "params", "activations", "size")
MEASURED = ("latency",)
SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
"""To the unit of latency, which is ms."""
BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
SIZES = "B, kB, MB, GB, TB, KiB, MiB, GiB, %"
UNITS = {"latency": ("ms", TIMES, "us, ms, s, %"), "size": ("B", BYTES, SIZES), "memory": ("B", BYTES, SIZES)}
"""Of costs whose figures need one: the unit, what each suffix is worth in it, and how the suffixes are written."""
NAME = r"[A-Za-z_]\w*|[^\s<,][^<,]*\.py:[A-Za-z_]\w*"
"""Of a cost; the second form is a cost in a file of the user's own."""
TERM = re.compile(rf"\s*({NAME})\s*<=?\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(%|[A-Za-z]*)\s*")


@dc.dataclass(frozen=True, slots=True)
class Term:
    """One cost and its limit: a share of the dense network's cost, or a figure in the cost's unit.

    The unit of a latency is ms, that of a size and of memory is bytes.
    """

    cost: str
    limit: float
    relative: bool

    def __str__(self) -> str:
        unit = UNITS[self.cost][0] if self.cost in UNITS else ""
        return (
            f"{self.cost}<={_figure(self.limit * 100)}%"
            if self.relative
            else f"{self.cost}<={_figure(self.limit)}{unit}"
        )


@dc.dataclass(frozen=True, slots=True)
class Budget:
    """Terms that must all hold."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return ", ".join(str(term) for term in self.terms)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget such as `macs<=50%`, `flops<=2.1G, params<=8M`, `size<=1MB` or `latency<=12ms`.

        A term may name any cost, also one of your own, by its registered name or as in `costs.py:energy<=50%`; what it
        means is known when the budget is bound to a network (`edakari.cost.bind`).

        Raises:
            BudgetError: the text is not a budget; says which term is wrong.
        """
        if not isinstance(text, str) or not text.strip():
            raise BudgetError(f"a budget is a text such as 'macs<=50%', but got {text!r}")
        terms = tuple(_term(part) for part in text.split(","))
        names = [term.cost for term in terms]
        for name in names:
            if names.count(name) > 1:
                raise BudgetError(f"budget {text!r} limits {name!r} twice; keep one")
        return cls(terms)

    def term(self, cost: str) -> Term | None:
        """What it says of a cost."""
        return next((term for term in self.terms if term.cost == cost), None)

    def absolute(self, dense: Mapping[str, float]) -> Budget:
        """The same budget with every share turned into a figure.

        Args:
            dense: cost of the dense network, in each cost's unit, by cost name.

        Raises:
            BudgetError: the dense cost of a share is not among them.
        """
        for term in self.terms:
            if term.relative and term.cost not in dense:
                raise BudgetError(
                    f"the budget term {str(term)!r} is a share of the dense network's {term.cost}, which is not known "
                    f"here (known: {', '.join(sorted(dense))}); give a figure instead of a share"
                )
        return Budget(
            tuple(
                Term(term.cost, term.limit * dense[term.cost], False) if term.relative else term for term in self.terms
            )
        )


@dc.dataclass(frozen=True)
class Limits:
    """A budget bound to a network: costs that can be asked, and the figure that each may reach."""

    terms: tuple[tuple[Cost, float], ...]

    def excess(self, sizes: Sizes) -> float:
        """Worst overrun as a share of its limit; the budget is met where this is at most 0."""
        return max(cost.total(sizes) / limit - 1.0 for cost, limit in self.terms)

    def describe(self, sizes: Sizes) -> str:
        """Each cost at these sizes beside its limit, in words."""
        return ", ".join(
            f"{cost.name} {cost.total(sizes):.6g} of {limit:.6g} {cost.unit}" for cost, limit in self.terms
        )


def _figure(number: float) -> str:
    """A number with six figures, or all that it has where these are not enough."""
    short = f"{number:g}"
    return short if math.isclose(float(short), number, rel_tol=1e-12) else f"{number:.15g}"


def _term(text: str) -> Term:
    found = TERM.fullmatch(text)
    if not found:
        raise BudgetError(f"cannot read the budget term {text.strip()!r}; write it as 'macs<=50%' or 'params<=8M'")
    name, number, suffix = found.group(1), float(found.group(2)), found.group(3)
    name = name.lower() if name.lower() in (*COUNTED, *UNITS) else name
    if suffix == "%":
        if not 0 < number <= 100:
            raise BudgetError(f"budget term {text.strip()!r}: a share must lie above 0 % and at most at 100 %")
        return Term(name, number / 100, True)
    if not 0 < number < math.inf:
        raise BudgetError(f"budget term {text.strip()!r}: a limit must lie above 0 and be finite")
    share = f"; did you mean '{name}<={number * 100:g}%'?" if not suffix and number <= 1 else ""
    _, scales, suffixes = UNITS.get(name, ("", SCALES, "k, M, G, T, %"))
    if suffix.lower() not in scales:
        wrong = f"suffix {suffix!r} is not one of" if suffix else "a figure needs one of the suffixes"
        raise BudgetError(f"budget term {text.strip()!r}: {wrong} {suffixes}{share}")
    if share and name in COUNTED:
        raise BudgetError(f"budget term {text.strip()!r} leaves the network {number:g} {name} in all{share}")
    return Term(name, number * scales[suffix.lower()], False)
