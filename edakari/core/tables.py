"""Small tables in plain text and HTML, which results print as."""

from __future__ import annotations

import dataclasses as dc
import html
import re
from collections.abc import Iterable, Sequence

__all__ = ["Table", "shortened"]

NUMBER = re.compile(r"[-−+]?[\d,.]+( ?(%|ms|[kMGT]?B?|points))?|–")


@dc.dataclass(frozen=True)
class Table:
    """A title, some facts, and rows below a head.

    Args:
        title: first line.
        facts: name and value of each, one a line.
        head: name of each column.
        rows: a text for each column.
        more: last line; empty is none.
    """

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    more: str = ""

    def text(self) -> str:
        """The table as aligned lines; columns of numbers are flush right."""
        lines = [self.title, *_aligned([(f"{name}:", value) for name, value in self.facts], [False, False])]
        if self.rows:
            lines += _aligned([self.head, *self.rows], self._numeric())
        if self.more:
            lines.append(f"  {self.more}")
        return "\n".join(lines)

    def html(self) -> str:
        """The table as HTML, as notebooks show it."""
        facts = "".join(f"<div>{html.escape(f'{name}: {value}')}</div>" for name, value in self.facts)
        more = f"<div>{html.escape(self.more)}</div>" if self.more else ""
        return f"<div><strong>{html.escape(self.title)}</strong>{facts}{self._html_rows()}{more}</div>"

    def _html_rows(self) -> str:
        if not self.rows:
            return ""
        sides = ["right" if numeric else "left" for numeric in self._numeric()]

        def row(kind: str, cells: Sequence[str]) -> str:
            texts = zip(cells, sides, strict=True)
            return "".join(f'<{kind} style="text-align:{side}">{html.escape(cell)}</{kind}>' for cell, side in texts)

        body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in self.rows)
        return f"<table><thead><tr>{row('th', self.head)}</tr></thead><tbody>{body}</tbody></table>"

    def _numeric(self) -> list[bool]:
        return [all(NUMBER.fullmatch(row[column]) for row in self.rows) for column in range(len(self.head))]


def shortened(values: Iterable[object], most: int = 8) -> str:
    """Values with commas between, the first ones only where there are many."""
    texts = [str(value) for value in values]
    return ", ".join(texts[:most]) + (", …" if len(texts) > most else "")


def _aligned(rows: Sequence[tuple[str, ...]], right: Sequence[bool]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(right))] if rows else []
    lines = []
    for row in rows:
        cells = zip(row, widths, right, strict=True)
        lines.append(
            "  " + "  ".join(f"{cell:>{width}}" if flush else f"{cell:{width}}" for cell, width, flush in cells)
        )
    return [line.rstrip() for line in lines]
