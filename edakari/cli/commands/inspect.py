"""`edakari inspect`: what can be pruned in a network."""

from __future__ import annotations

import dataclasses as dc
from typing import Annotated, Any

import typer

from edakari.cli.console import guarded, note, print_json, show

__all__ = ["inspect"]


@guarded
def inspect(
    model: Annotated[
        str, typer.Argument(help="timm:NAME, torchvision:NAME, edakari:NAME or path/to/file.py:function.")
    ],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="Keyword of its constructor: key=value, such as num_classes=10."),
    ] = None,
    image_size: Annotated[int, typer.Option(min=0, help="Side of the input; 0 is the network's own.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="List all that was left alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what can be pruned in a network, what it costs, and what is left alone and why; needs no weights."""
    found = inspected(model, option or [], image_size)
    if as_json:
        print_json(found)
        return
    from rich.markup import escape

    from edakari.cli.tables import costs_line, groups_table, refused_table

    shape = "×".join(map(str, found["input"]))
    show(f"[bold]{escape(found['model'])}[/] on input {shape}: {costs_line(found['costs'])}\n")
    show(groups_table(found["groups"]))
    refused = found["refused"] if everything else found["refused"][:10]
    if refused:
        show("")
        show(refused_table(refused))
    if len(refused) < len(found["refused"]):
        note(f"[dim]… and {len(found['refused']) - len(refused)} more; --all lists them[/]")
    if found["uncounted"]:
        names = ", ".join(f"{name} × {count}" for name, count in found["uncounted"].items())
        show(f"\nNot counted in the MACs: {escape(names)}")


def _keywords(options: list[str]) -> dict[str, Any]:
    import yaml

    from edakari.errors import RecipeError

    found = {}
    for option in options:
        key, sign, text = option.partition("=")
        if not sign or not key.isidentifier():
            raise RecipeError(f"--option {option!r}: write it as key=value, such as num_classes=10")
        try:
            found[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--option {option!r}: the value is not YAML: {error}") from error
    return found


def inspected(name: str, options: list[str], image_size: int) -> dict[str, Any]:
    """The graph of a named network as plain values, built without taking memory."""
    import torch

    from edakari.cost import COSTS, dense, uncounted
    from edakari.graph import trace
    from edakari.models import ModelSpec, build, default_example

    spec = ModelSpec(name, _keywords(options))
    with torch.device("meta"):
        model = build(spec)
    example = default_example(spec, model)
    if image_size:
        example = torch.zeros(*example.shape[:2], image_size, image_size)
    graph = trace(model, example)
    costs, whole = {key: make(graph) for key, make in COSTS.items()}, dense(graph)

    def share(cost: str, group: str) -> float:
        return 1.0 - float(costs[cost].total({group: 0})) / whole[cost] if whole[cost] else 0.0

    return {
        "model": name,
        "input": list(example.shape),
        "costs": whole,
        "groups": [
            {
                **dc.asdict(group),
                "macs_share": share("macs", group.name),
                "params_share": share("params", group.name),
            }
            for group in graph.groups
        ],
        "refused": [dc.asdict(refusal) for refusal in graph.refused],
        "uncounted": dict(uncounted(graph)),
    }
