"""Budgets: limits on the costs of the pruned network."""

from __future__ import annotations

import dataclasses as dc
import math
import re
from collections.abc import Mapping

from edakari.core.costs import Cost
from edakari.core.space import Sizes
from edakari.core.steady import LATENCY
from edakari.errors import BudgetError

__all__ = ["LATENCY", "Budget", "Drop", "Limits", "Term", "is_latency"]

COUNTED = ("macs", "flops", "params", "activations", "size")
SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
"""Factors from each suffix to the unit of latency, ms."""
BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
SIZES = "B, kB, MB, GB, TB, KiB, MiB, GiB, %"
UNITS = {"latency": ("ms", TIMES, "us, ms, s, %"), "size": ("B", BYTES, SIZES), "memory": ("B", BYTES, SIZES)}
"""Costs whose limits need a suffix: the unit, the factor of each suffix, and the list of suffixes for errors."""
NAME = r"[A-Za-z_]\w*(?:@[^\s<,@]+)?|[^\s<,][^<,]*\.py:[A-Za-z_]\w*"
"""Pattern of the name of a cost; the second form is a cost in the user's own file."""
DEVICE = re.compile(r"[A-Za-z_][\w-]*")
"""Pattern of the name of one of several latencies."""
NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?"
SPARSITY = re.compile(rf"\s*sparsity\s*(<=?|>=?|=)\s*({NUMBER})\s*(%?)\s*", re.IGNORECASE)
DROP = re.compile(rf"\s*(\w+)_drop\s*<=?\s*({NUMBER})\s*(%|points?|)\s*")
TERM = re.compile(rf"\s*({NAME})\s*<=?\s*({NUMBER})\s*(%|[A-Za-z]*)\s*")


@dc.dataclass(frozen=True, slots=True)
class Term:
    """One cost and its limit.

    Args:
        cost: name of the cost.
        limit: fraction of the dense network's cost if `relative`, else a limit in the unit of the cost: ms for latency,
            bytes for size and memory.
        relative: whether the limit is a fraction.
    """

    cost: str
    limit: float
    relative: bool

    def __str__(self) -> str:
        unit = UNITS.get(_quantity(self.cost), ("",))[0]
        return (
            f"{self.cost}<={_figure(self.limit * 100)}%"
            if self.relative
            else f"{self.cost}<={_figure(self.limit)}{unit}"
        )


@dc.dataclass(frozen=True, slots=True)
class Drop:
    """What a metric may lose against the unpruned network.

    Args:
        metric: name of the metric.
        limit: largest loss, in points of a per cent for metrics that are fractions, else in the metric's unit.
    """

    metric: str
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}_drop<={_figure(self.limit)}"


@dc.dataclass(frozen=True, slots=True)
class Budget:
    """Limits on costs that must all hold, and a sparsity.

    Args:
        terms: costs and their limits.
        sparsity: fraction of the maskable weights that at least are masked, which is int(sparsity * N) of N weights; 0
            asks for none.
        drop: largest loss of a metric; a run then looks for the smallest limit of the first term's cost that keeps to
            it. None asks for the limits themselves.
    """

    terms: tuple[Term, ...]
    sparsity: float = 0.0
    drop: Drop | None = None

    def __str__(self) -> str:
        sparsity = [f"sparsity>={_figure(self.sparsity * 100)}%"] if self.sparsity else []
        return ", ".join([*map(str, self.terms), *sparsity, *([str(self.drop)] if self.drop else [])])

    @property
    def limits(self) -> Budget:
        """The budget without the sparsity."""
        return Budget(self.terms)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget such as `macs<=50%`, `flops<=2.1G, params<=8M`, `size<=1MB` or `latency<=12ms`.

        `sparsity>=90%` asks methods that mask single weights for a fraction of masked ones, alone or with other terms:
        `macs<=40%, sparsity>=90%`. Several latencies have a name each, as in `latency@pi<=30ms, latency@cpu<=60%`.
        Other terms may name any registered cost, or your own cost in a file, as in `costs.py:energy<=50%`. The name is
        looked up when the budget is bound to a network (`edakari.cost.bind`).

        `top1_drop<=1` asks for the network of fewest multiply-accumulates whose `top1` loses at most one point;
        `latency<=100%, top1_drop<=1` for the fastest one. Runs look for it, by several trainings.

        Args:
            text: terms, separated by commas.

        Raises:
            BudgetError: the text is not a budget; the error names the wrong term.
        """
        if not isinstance(text, str) or not text.strip():
            raise BudgetError(f"a budget is a text such as 'macs<=50%', but got {text!r}")
        parts = text.split(",")
        sparsities = [_sparsity(part) for part in parts if SPARSITY.fullmatch(part)]
        drops = [Drop(found[1], float(found[2])) for part in parts if (found := DROP.fullmatch(part))]
        terms = tuple(_term(part) for part in parts if not (SPARSITY.fullmatch(part) or DROP.fullmatch(part)))
        names = [*(term.cost for term in terms), *["sparsity"] * len(sparsities), *["drop"] * len(drops)]
        for name in names:
            if names.count(name) > 1:
                raise BudgetError(f"budget {text!r} limits {name!r} twice; keep one")
        if LATENCY in names and sum(map(is_latency, names)) > 1:
            raise BudgetError(
                f"budget {text!r} limits a latency without a name beside named ones; name each, as in "
                "'latency@pi<=30ms, latency@cpu<=60%'"
            )
        sparsity = next(iter(sparsities), 0.0)
        if not drops:
            return cls(terms, sparsity)
        return cls(terms or (Term("macs", 1.0, True),), sparsity, drops[0])

    @property
    def latencies(self) -> tuple[Term, ...]:
        """The terms whose costs are latencies."""
        return tuple(term for term in self.terms if is_latency(term.cost))

    def term(self, cost: str) -> Term | None:
        """Return the term of a cost; None if the budget does not name the cost."""
        return next((term for term in self.terms if term.cost == cost), None)

    def absolute(self, dense: Mapping[str, float]) -> Budget:
        """Return the budget with every percentage replaced by a limit in the unit of its cost.

        Args:
            dense: cost of the dense network, in each cost's unit, by cost name.

        Raises:
            BudgetError: `dense` lacks a cost whose limit is a percentage.
        """
        for term in self.terms:
            if term.relative and term.cost not in dense:
                raise BudgetError(
                    f"the budget term {str(term)!r} is a percentage of the dense network's {term.cost}, which is not "
                    f"known here (known: {', '.join(sorted(dense))}); give an absolute limit instead"
                )
        return Budget(
            tuple(
                Term(term.cost, term.limit * dense[term.cost], False) if term.relative else term for term in self.terms
            ),
            self.sparsity,
            self.drop,
        )


@dc.dataclass(frozen=True)
class Limits:
    """A budget bound to a network.

    Args:
        terms: costs of the network, and the limit of each in its unit.
    """

    terms: tuple[tuple[Cost, float], ...]

    def excess(self, sizes: Sizes) -> float:
        """Return the largest overrun, as a fraction of its limit; the budget is met if this is at most 0.

        Args:
            sizes: size of each group.
        """
        return max(cost.total(sizes) / limit - 1.0 for cost, limit in self.terms)

    def describe(self, sizes: Sizes) -> str:
        """Describe each cost at some sizes together with its limit.

        Args:
            sizes: size of each group.
        """
        return ", ".join(
            f"{cost.name} {cost.total(sizes):.6g} of {limit:.6g} {cost.unit}" for cost, limit in self.terms
        )


def is_latency(cost: str) -> bool:
    """Whether the name of a cost is that of a latency, which is measured: `latency` or `latency@pi`.

    Args:
        cost: name of a cost in a budget.
    """
    return _quantity(cost) == LATENCY


def _quantity(cost: str) -> str:
    """The quantity that a cost measures: "latency" of `latency@pi`."""
    head, _, device = cost.partition("@")
    return head if head == LATENCY and (device or head == cost) else cost


def _figure(number: float) -> str:
    """Format a number with six significant digits, or with all digits if six are not enough."""
    short = f"{number:g}"
    return short if math.isclose(float(short), number, rel_tol=1e-12) else f"{number:.15g}"


def _sparsity(text: str) -> float:
    found = SPARSITY.fullmatch(text)
    assert found is not None
    relation, number, suffix = found.group(1), float(found.group(2)), found.group(3)
    percent = number if suffix or number > 1 else number * 100
    if not relation.startswith(">") or not suffix:
        raise BudgetError(
            f"budget term {text.strip()!r}: a sparsity is a percentage of masked weights that is reached or exceeded; "
            f"did you mean 'sparsity>={percent:g}%'?"
        )
    if not 0 < number < 100:
        raise BudgetError(f"budget term {text.strip()!r}: a sparsity must be above 0 % and below 100 %")
    return number / 100


def _term(text: str) -> Term:
    found = TERM.fullmatch(text)
    if not found:
        raise BudgetError(f"cannot read the budget term {text.strip()!r}; write it as 'macs<=50%' or 'params<=8M'")
    name, number, suffix = found.group(1), float(found.group(2)), found.group(3)
    name = _known_case(name, text.strip())
    if suffix == "%":
        if not 0 < number <= 100:
            raise BudgetError(f"budget term {text.strip()!r}: a percentage must be above 0 % and at most 100 %")
        return Term(name, number / 100, True)
    if not 0 < number < math.inf:
        raise BudgetError(f"budget term {text.strip()!r}: a limit must be above 0 and finite")
    hint = f"; did you mean '{name}<={number * 100:g}%'?" if not suffix and number <= 1 else ""
    _, scales, suffixes = UNITS.get(_quantity(name), ("", SCALES, "k, M, G, T, %"))
    if suffix.lower() not in scales:
        wrong = f"suffix {suffix!r} is not one of" if suffix else "the limit needs one of the suffixes"
        raise BudgetError(f"budget term {text.strip()!r}: {wrong} {suffixes}{hint}")
    if hint and name in COUNTED:
        raise BudgetError(f"budget term {text.strip()!r} leaves the network only {number:g} {name}{hint}")
    return Term(name, number * scales[suffix.lower()], False)


def _known_case(name: str, text: str) -> str:
    """The name of a cost with a known one in small letters; the name of a latency stays as it is."""
    head, at, device = name.partition("@") if not name.rpartition(":")[0].endswith(".py") else (name, "", "")
    head = head.lower() if head.lower() in (*COUNTED, *UNITS) else head
    if at and head != LATENCY:
        raise BudgetError(f"budget term {text!r}: only a latency has the name of a device, as in 'latency@pi<=30ms'")
    if at and not DEVICE.fullmatch(device):
        raise BudgetError(
            f"budget term {text!r}: the name of a latency has letters, digits, '_' and '-' and begins with a letter, "
            f"found {device!r}"
        )
    return f"{head}{at}{device}"
