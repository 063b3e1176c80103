"""How commands print a comparison of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edakari.cli.console import print_json, show

if TYPE_CHECKING:
    from edakari.sweeps.comparing import Comparison  # the command line starts without torch

__all__ = ["show_comparison"]


def show_comparison(found: Comparison, *, as_json: bool) -> None:
    """Print a comparison and where its page is, or the comparison as JSON.

    Args:
        found: the comparison.
        as_json: whether to print JSON.
    """
    from rich.markup import escape

    from edakari.sweeps.writing import content_of

    if as_json:
        print_json(content_of(found.results))
        return
    show(escape(repr(found)))
    if found.page is not None:
        show(f"\nPage: [bold]{escape(str(found.page.resolve()))}[/]")
