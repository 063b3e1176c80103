"""`edakari methods`: which methods there are."""

from __future__ import annotations

import dataclasses as dc
import importlib
from typing import Annotated, Any

import typer

from edakari.cli.console import guarded, print_json, show

__all__ = ["methods"]


@guarded
def methods(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List the pruning methods, their papers and their settings."""
    from rich.table import Table
    from rich.text import Text

    from edakari.core.method import registered

    importlib.import_module("edakari.methods")
    found: dict[str, dict[str, Any]] = {
        name: {"summary": _summary(cls), "paper": cls.paper, "settings": _settings(cls)}
        for name, cls in registered().items()
    }
    if as_json:
        print_json({"methods": found})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("method", "what it does", "paper", "settings"):
        table.add_column(title, overflow="fold")
    for name, entry in found.items():
        settings = ", ".join(f"{key}={value}" for key, value in entry["settings"].items())
        table.add_row(name, Text(entry["summary"]), Text(entry["paper"]), Text(settings))
    show(table)


def _summary(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _settings(cls: Any) -> dict[str, Any]:
    return {field.name: None if field.default is dc.MISSING else field.default for field in dc.fields(cls)}
