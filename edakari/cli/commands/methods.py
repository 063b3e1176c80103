"""`edakari methods`: lists the pruning methods."""

from __future__ import annotations

import dataclasses as dc
import importlib
import typing
from collections.abc import Mapping
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
    from edakari.criteria import CRITERIA

    importlib.import_module("edakari.methods")
    found = {"methods": _described(registered()), "criteria": _described(CRITERIA)}
    if as_json:
        print_json(found)
        return
    titles = {
        "methods": "what it does",
        "criteria": "scores a channel by; its name is short for the method score with it",
    }
    for kind, title in titles.items():
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ({"methods": "method", "criteria": "criterion"}[kind], title, "paper", "settings"):
            table.add_column(column, overflow="fold")
        for name, entry in found[kind].items():
            settings = ", ".join(f"{key}={value}" for key, value in entry["settings"].items())
            table.add_row(name, Text(entry["summary"]), Text(entry["paper"]), Text(settings))
        show(table)
        show("")


def _described(things: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {"summary": _summary(cls), "paper": getattr(cls, "paper", ""), "settings": _settings(cls)}
        for name, cls in things.items()
    }


def _summary(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _settings(cls: Any) -> dict[str, Any]:
    """The defaults of a class; of what a field holds, the name or the settings."""
    from edakari.core.settings import registry_of

    if not dc.is_dataclass(cls):
        return {}
    hints, found = typing.get_type_hints(cls, include_extras=True), {}
    for field in dc.fields(cls):
        default = None if field.default is dc.MISSING else field.default
        registry = registry_of(hints[field.name])
        named = registry.name_of(default) if registry is not None and not isinstance(default, str) else None
        found[field.name] = named or (dc.asdict(default) if dc.is_dataclass(default) else default)  # type: ignore[arg-type]
    return found
