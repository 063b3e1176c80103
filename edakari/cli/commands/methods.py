"""`edakari methods`: lists the pruning methods, and explains one."""

from __future__ import annotations

import dataclasses as dc
import importlib
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from edakari.cli.console import guarded, print_json, show
from edakari.cli.layout import Column, Grid

if TYPE_CHECKING:
    from edakari.core.described import Setting

__all__ = ["methods"]


KINDS = {"methods": ("method", "what it does"), "criteria": ("criterion", "scores a channel by")}


@guarded
def methods(
    name: Annotated[str | None, typer.Argument(help="Method or criterion whose settings are explained.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the pruning methods and their papers; of one method or criterion, explain each setting."""
    from edakari.core.method import registered
    from edakari.criteria import CRITERIA

    importlib.import_module("edakari.methods")
    if name is not None:
        _explain(name, as_json)
        return
    found = {"methods": _described(registered()), "criteria": _described(CRITERIA)}
    if as_json:
        print_json(found)
        return
    for kind, (one, title) in KINDS.items():
        columns = [Column(text, figures=False) for text in (one, title, "paper")]
        show(Grid(columns, [[name, entry["summary"], entry["paper"]] for name, entry in found[kind].items()]))
        show("")
    show(
        "The name of a criterion is short for the method `score` with it. `edakari methods NAME` explains the settings."
    )


def _explain(name: str, as_json: bool) -> None:
    """Explain the settings of one method or criterion."""
    from edakari.core.described import paragraphs
    from edakari.core.method import METHODS
    from edakari.criteria import CRITERIA

    is_method = name in METHODS
    cls = METHODS.named(name) if is_method else CRITERIA.named(name) if name in CRITERIA else METHODS.named(name)
    key = "method" if is_method else "method.criterion"
    settings = [
        {"key": f"{key}.{each.key}", **{part: getattr(each, part) for part in ("type", "default", "meaning")}}
        for each in _settings_in(cls)
    ]
    texts, paper = paragraphs(cls), str(getattr(cls, "paper", ""))
    if as_json:
        print_json({"name": name, "summary": texts[0], "paper": paper, "settings": settings})
        return
    short = "" if is_method else f"`method: {name}` is short for `method: {{name: score, criterion: {name}}}`, whose "
    short += "" if is_method else "other settings `edakari methods score` explains."
    head = [f"[bold]{escape(name)}[/]", *map(escape, texts), f"Paper: {escape(paper)}" if paper else "", escape(short)]
    show("\n".join(text for text in head if text) + "\n")
    if not settings:
        show("It has no settings.")
    for each in settings:
        kind = f"{each['type']}; " + ("needed" if each["default"] == "needed" else f"default {each['default']}")
        show(f"[bold]{escape(each['key'])}[/]  {escape(kind.replace('`', ''))}")
        if each["meaning"]:
            show(f"  {escape(each['meaning'])}")


def _settings_in(cls: Any) -> list[Setting]:
    """The settings of a class, inherited ones first."""
    from edakari.core.described import settings_of

    parts: list[Any] = [part for part in cls.__mro__[::-1] if dc.is_dataclass(part)]
    return [each for part in parts for each in settings_of(part)]


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
