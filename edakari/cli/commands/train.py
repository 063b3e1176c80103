"""`edakari train`: trains a network without pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.commands.prune import own_recipe, with_trackers
from edakari.cli.console import ReportTo, Trust, guarded, print_json, show

__all__ = ["train"]


@guarded
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file with a `train` section.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File of weights to write, such as resnet20.safetensors; a folder for a pruned network.",
        ),
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value: key=value, such as train.epochs=10.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an existing output, and an interrupted training by other settings."),
    ] = False,
    trust: Trust = False,
    report_to: ReportTo = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train the recipe's network without pruning and write its weights; an interrupted training resumes.

    Training starts from the recipe's weights, or from random weights if the recipe names none or the output file. A
    pruned network, and one that the recipe's `transfer` section moves to other data, is written to a folder.
    """
    from rich.markup import escape

    from edakari.cli.tables import metrics_line
    from edakari.core.wording import counted
    from edakari.pipeline import train_dense

    result = train_dense(own_recipe(recipe, with_trackers(settings, report_to), trust), output, overwrite=overwrite)
    if as_json:
        print_json(result)
        return
    epochs = counted(len(result["epochs"]), "epoch")
    show(f"[green]✓[/] {epochs}: {escape(metrics_line(result['metrics']) or 'the task gives no metrics')}")
    show(f"Written to: [bold]{escape(str(output.resolve()))}[/]")
