"""`edakari inspect`: shows what can be pruned in a network."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edakari.cli.console import Trust, guarded, note, print_json, show, width

if TYPE_CHECKING:
    from edakari.report.inspection import Inspection

__all__ = ["inspect", "keywords"]


@guarded
def inspect(  # noqa: PLR0913 - one for each option
    model: Annotated[
        str,
        typer.Argument(help="timm:NAME, torchvision:NAME, edakari:NAME, path/to/file.py:function, or a run folder."),
    ],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Keyword argument of its constructor: key=value, such as num_classes=10."),
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--input", help="Sizes of an input without the batch, such as 1,28,28; once for each input."),
    ] = None,
    image_size: Annotated[int, typer.Option(min=0, help="Side of the input image; 0 takes the network's default.")] = 0,
    depth: Annotated[int, typer.Option(min=0, help="Levels of modules to show; 0 shows all.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Show every module, without folding.")] = False,
    groups: Annotated[
        bool, typer.Option("--groups", help="List the groups and what cannot be pruned instead.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--html", help="Write a picture of the network to this HTML file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Allow --html to overwrite the file.")] = False,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what can be pruned in a network, its costs, and what cannot be pruned and why; needs no weights."""
    from edakari.cli.tree import TreeSettings

    if page is not None:
        _check_free(page, force)
    found = _inspected(model, option or [], sizes or [], image_size, trust)
    if as_json:
        from edakari.report.inspection import as_json as plain

        print_json(plain(found))
    elif groups:
        _show_groups(found, everything)
    else:
        _show_tree(found, TreeSettings(depth, everything, width()))
    if page is not None:
        _write_page(found, page)


def _inspected(name: str, options: list[str], sizes: list[str], image_size: int, trust: bool) -> Inspection:
    """Inspect a named network, built on the meta device."""
    import torch

    from edakari.errors import ModelError
    from edakari.graph import trace
    from edakari.models import ModelSpec
    from edakari.report.inspection import inspection
    from edakari.surgery import build, is_saved

    spec = ModelSpec(name, keywords(options))
    # networks in folders are read from files, which have values
    with contextlib.nullcontext() if is_saved(name) else torch.device("meta"):
        model = build(spec, trust_code=trust)
    example = _example(spec, model, sizes, image_size)
    try:
        graph = trace(model, example)
    except ModelError as error:
        if error.__cause__ is None:
            raise
        from edakari.cli.user_error import explained

        raise ModelError(explained(type(model).__name__, example, error.__cause__)) from error
    return inspection(name, graph, model)


def _example(spec: Any, model: Any, sizes: list[str], image_size: int) -> Any:
    """Make the network's input: the requested sizes, or its default input."""
    import torch

    from edakari.core.blank import blank
    from edakari.errors import RecipeError
    from edakari.graph import example_of
    from edakari.models import default_example
    from edakari.surgery import is_saved, load_plan

    if sizes and image_size:
        raise RecipeError("--input and --image-size both set the input size: use only one of them")
    if sizes:
        tensors = tuple(blank(1, *_shape(text)) for text in sizes)
        return tensors[0] if len(tensors) == 1 else tensors
    example = example_of(load_plan(spec.name).inputs) if is_saved(spec.name) else default_example(spec, model)
    if not image_size:
        return example
    if not isinstance(example, torch.Tensor) or example.dim() != 4:
        raise RecipeError("--image-size is for networks that take one image; use --input instead")
    return blank(*example.shape[:2], image_size, image_size)


def _shape(text: str) -> list[int]:
    from edakari.errors import RecipeError

    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise RecipeError(f"--input {text!r}: write the sizes without the batch, such as 1,28,28 or 3,224,224")
    return [int(part) for part in parts]


def keywords(options: list[str]) -> dict[str, Any]:
    """Parse keyword arguments of a constructor from texts `key=value`."""
    import yaml

    from edakari.core.reading import Unreadable
    from edakari.core.reading_yaml import parse_yaml
    from edakari.errors import RecipeError

    found = {}
    for option in options:
        key, sign, text = option.partition("=")
        if not sign or not key.isidentifier():
            raise RecipeError(f"--option {option!r}: write it as key=value, such as num_classes=10")
        try:
            found[key], _ = parse_yaml(text)
        except (yaml.YAMLError, Unreadable) as error:
            raise RecipeError(f"--option {option!r}: the value is not YAML: {error}") from error
    return found


def _show_tree(found: Inspection, settings: Any) -> None:
    from edakari.cli.tables import totals
    from edakari.cli.tree import module_tree

    _show_title(found)
    show(module_tree(found, settings))
    show("")
    show(totals(found, settings.width))


def _show_groups(found: Inspection, everything: bool) -> None:
    from edakari.cli.tables import groups_table, unprunable_table
    from edakari.report.inspection import as_json

    content = as_json(found)
    _show_title(found)
    show(groups_table(content["groups"]))
    unprunable = content["unprunable"] if everything else content["unprunable"][:10]
    if unprunable:
        show("")
        show(unprunable_table(unprunable))
    if len(unprunable) < len(content["unprunable"]):
        note(f"[dim]… and {len(content['unprunable']) - len(unprunable)} more; --all lists them[/]")


def _show_title(found: Inspection) -> None:
    from rich.markup import escape

    from edakari.cli.tables import costs_line
    from edakari.report.inspection import input_text

    show(f"[bold]{escape(found.name)}[/] on input {input_text(found.graph.inputs)}: {costs_line(found.costs)}")
    if found.graph.device != "meta":
        show(
            f"[yellow]Traced on the {found.graph.device.upper()}[/], as it could not run without values: "
            f"{escape(found.graph.device_reason)}"
        )
    show("")


def _check_free(page: Path, force: bool) -> None:
    from edakari.core.file_errors import require_writable
    from edakari.errors import ExportError

    if page.is_dir():
        raise ExportError(f"--html {page} is a folder; give the path of a file")
    if page.exists() and not force:
        raise ExportError(f"--html {page} already exists; --force overwrites it")
    require_writable(page)


def _write_page(found: Inspection, page: Path) -> None:
    from edakari.core.files import write_text
    from edakari.report.network_page import render_network

    write_text(page, render_network(found))
    note(f"\nPicture: {page.resolve()}")
