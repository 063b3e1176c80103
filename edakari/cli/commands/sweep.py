"""`edakari sweep`: runs a recipe with many values of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edakari.cli.comparison import show_comparison
from edakari.cli.console import Trust, guarded, note, show

__all__ = ["sweep"]


@guarded
def sweep(
    file: Annotated[Path, typer.Argument(help="YAML file of a sweep: a recipe, axes, and perhaps a goal.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the sweep. Default: runs/NAME.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value of the file: key=value, such as trials=50.")
    ] = None,
    trust: Trust = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check every combination, say how many runs, and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Run methods, budgets, seeds or other values of a recipe, and compare them.

    The same command in another terminal, or on another machine with the same storage, helps.
    """
    from rich.markup import escape

    from edakari.sweeps import read_sweep
    from edakari.sweeps import sweep as run_sweep
    from edakari.sweeps.plan import plan_of

    read = read_sweep(file, settings or ())
    if check:
        plan = plan_of(read, str(file), trust_code=trust)
        trials = f" of {read.trials} trials" if plan.spans else ""
        show(f"[green]✓[/] {escape(str(file))} can be run: {len(plan.points())} combinations{trials}")
        return

    def tell(text: str, done: int, every: int) -> None:
        note(f"[green]✓[/] {done}/{every} {escape(text)}")

    found = run_sweep(read, output or Path("runs") / (read.name or file.stem), trust_code=trust, tell=tell)
    show_comparison(found, as_json=as_json)
