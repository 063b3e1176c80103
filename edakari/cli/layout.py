"""Text and tables that fit into a line of any width."""

from __future__ import annotations

import dataclasses as dc
import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

__all__ = ["Column", "Grid", "hanging"]

GAP = 2
NARROWEST = 16
"""Least width of a column of text; a table with less room is printed row by row."""


WORD = re.compile(r"\S*\d (?:%|×|ms|s|min|h|[kMGT]B?)(?=\W|$)\S*|\S+")
"""A word; a figure and its unit are one."""


def hanging(text: Text, width: int, indent: int = 0) -> list[Text]:
    """Wrap a text between words; lines after the first one are indented. A longer word, such as a path, stays whole.

    Args:
        text: one or several lines.
        width: characters in a line.
        indent: number of spaces.
    """
    found = []
    for line in text.split("\n", allow_blank=True):
        own = len(line.plain) - len(line.plain.lstrip(" "))
        spaces, start, end = own + indent, own, own
        for word in WORD.finditer(line.plain, own):
            before = own if start == own else spaces
            if end > start and before + cell_len(line.plain[start : word.end()]) > width:
                found.append(Text(" " * before) + line[start:end])
                start = word.start()
            end = word.end()
        found.append(Text(" " * (own if start == own else spaces)) + line[start:end])
    return found


@dc.dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: its title.
        figures: whether it holds figures, which are aligned to the right and never broken.
    """

    title: str
    figures: bool = True


@dc.dataclass(frozen=True)
class Grid:
    """A table that never cuts a cell: where it has no room for all columns, each row is a sentence of all cells.

    Args:
        columns: the columns; the first one names the rows.
        rows: cells of each row.
        caption: a line below the table; empty if there is none.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Text | str]]
    caption: str = ""

    def parts(self, width: int) -> Iterator[Table | Text]:
        """Yield the table and its caption, or a line for each row.

        Args:
            width: characters in a line.
        """
        if self._least() <= width:
            yield self._table()
        else:
            yield from map(self._sentence, self.rows)
        if self.caption:
            yield Text(self.caption, "dim")

    def _least(self) -> int:
        """Least number of characters in a line of the table."""
        widths = []
        for index, column in enumerate(self.columns):
            cells = [column.title, *(str(row[index]) for row in self.rows)]
            words = cells if column.figures else [word for cell in cells for word in cell.split()]
            longest = max((cell_len(word) for word in words), default=0)
            whole = max(cell_len(cell) for cell in cells)
            widths.append(longest if column.figures else max(min(whole, NARROWEST), min(longest, 40)))
        return sum(widths) + GAP * (len(widths) - 1)

    def _table(self) -> Table:
        titled = any(column.title for column in self.columns)
        table = Table(box=None, pad_edge=False, header_style="bold", show_header=titled)
        for column in self.columns:
            align = "right" if column.figures else "left"
            table.add_column(column.title, justify=align, no_wrap=column.figures, overflow="fold")  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
        return table

    def _sentence(self, row: Sequence[Text | str]) -> Text:
        """All cells of a row with their titles."""
        first, *rest = ((column.title, cell) for column, cell in zip(self.columns, row, strict=True) if str(cell))
        text = Text.assemble((str(first[1]), "bold"), ": " if rest else "")
        for index, (title, cell) in enumerate(rest):
            text.append(", " if index else "").append(f"{title} " if title else "").append_text(
                Text(cell) if isinstance(cell, str) else cell
            )
        return text
