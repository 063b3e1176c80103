"""What graphs, plans and scores print as: what one asks first, in about ten lines."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from edakari.core.layout import extent
from edakari.core.tables import Table, shortened

if TYPE_CHECKING:
    from edakari.core.graph import Graph, InputSpec

__all__ = ["ROWS", "ScoreTable", "count", "input_text", "of_graph", "rest"]

T = TypeVar("T")
ROWS = 6
"""Rows that are shown; the others are counted."""


def count(value: float) -> str:
    """A number with three figures and a suffix: 12.3 M."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:
            return f"{float(f'{value / limit:.3g}'):g} {suffix}"
    return f"{value:.0f}"


def of_graph(graph: Graph) -> Table:
    """A graph: its input, what it costs, and its largest groups."""
    params = sum(math.prod(extent(each, {}) for each in graph.layouts[name]) for name in graph.parameters)
    macs = sum(
        times * math.prod(extent(each, {}) for each in layouts) for op in graph.operators for times, layouts in op.macs
    )
    kinds = collections.Counter(group.kind for group in graph.groups)
    groups = sorted(graph.groups, key=lambda group: -group.size)
    return Table(
        f"Graph of {len(graph.groups)} groups",
        (
            ("input", input_text(graph.inputs)),
            ("parameters", count(params)),
            ("MACs", count(macs)),
            ("kinds of groups", ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()) or "none"),
            ("branches that can be dropped", str(len(graph.branches))),
            *((("parallel paths that can be dropped", str(len(graph.paths))),) if graph.paths else ()),
            ("dimensions that stay whole", str(len(graph.unprunable))),
        ),
        ("largest groups", "kind", "size", "tensors"),
        tuple(
            (group.name, group.kind, str(group.size), str(len(graph.members(group.name)))) for group in groups[:ROWS]
        ),
        rest(len(groups), "groups"),
    )


class ScoreTable(dict[str, T]):
    """Scores by group, which print as their ranges."""

    def __repr__(self) -> str:
        return _of_scores(self).text()

    def _repr_html_(self) -> str:
        return _of_scores(self).html()


def _of_scores(scores: Mapping[str, Any]) -> Table:
    """Scores: their range in each group."""
    rows = []
    for name, score in list(scores.items())[:ROWS]:
        values = sorted(float(value) for value in score)
        middle = values[len(values) // 2] if values else math.nan
        figures = (values[0], middle, values[-1]) if values else (math.nan,) * 3
        rows.append((name, str(len(values)), *(f"{value:.3g}" for value in figures)))
    return Table(
        f"Scores of {len(scores)} groups",
        (),
        ("group", "channels", "smallest", "median", "largest"),
        tuple(rows),
        rest(len(scores), "groups"),
    )


def rest(number: int, what: str) -> str:
    """What stands below rows that are only the first ones."""
    return f"and {number - ROWS} more {what}" if number > ROWS else ""


def input_text(inputs: InputSpec) -> str:
    """An example input as one reads it: [1, 3, 32, 32]; by position or name where there are several."""
    match inputs:
        case {"tensor": [list(shape), str(dtype)]}:
            return str(shape) if dtype == "float32" else f"{shape} {dtype}"
        case {"dict": dict(parts)}:
            return ", ".join(f"{name}: {input_text(part)}" for name, part in parts.items())
        case {"tuple": list(parts)} | {"list": list(parts)}:
            return "; ".join(map(input_text, parts))
        case {"value": value}:
            return repr(value)
        case {"args": args, **rest}:
            return "; ".join([input_text(args), *(f"{name}: {input_text(part)}" for name, part in rest.items())])
    return "–" if inputs is None else shortened([inputs], 1)
