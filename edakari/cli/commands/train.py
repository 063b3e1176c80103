"""`edakari train`: a dense network, to have something to prune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.commands.prune import own_recipe
from edakari.cli.console import Trust, guarded, print_json, show

__all__ = ["train"]


@guarded
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file with a `train` section.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights to write, such as resnet20.safetensors.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value: key=value, such as train.epochs=10.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train the recipe's dense network and write its weights; an interrupted training goes on where it stopped.

    It starts from the weights that the recipe names, or from random ones where it names none or the file that is made.
    """
    from rich.markup import escape

    from edakari.pipeline import train_dense

    result = train_dense(own_recipe(recipe, settings or (), trust), output, overwrite=overwrite)
    if as_json:
        print_json(result)
        return
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    show(f"{figures}\nWeights: [bold]{escape(str(output.resolve()))}[/]")
