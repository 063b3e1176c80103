"""`edakari prune`: runs a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edakari.cli.console import ReportTo, Trust, guarded, note, print_json, show, watcher
from edakari.cli.stages import telling

__all__ = ["own_recipe", "prune", "run_recipe", "with_trackers"]

UNTRAINED = "accuracies will be meaningless"


@guarded
def prune(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, or a run folder to resume.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder; runs/NAME, or the recipe's own, if not given.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a value: key=value, such as method.name=taylor.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the results of an earlier run.")] = False,
    trust: Trust = False,
    report_to: ReportTo = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check recipe, network, data and budget, say how long it takes, and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Prune a trained network to a budget by a recipe; an interrupted run resumes where it stopped."""
    file, folder = _found(recipe)
    if check:
        _check(own_recipe(file, with_trackers(settings, report_to), trust))
        return
    run_recipe(own_recipe(file, with_trackers(settings, report_to), trust), output or folder, overwrite, as_json)


def with_trackers(settings: Sequence[str] | None, report_to: Sequence[str] | None) -> list[str]:
    """Return the values that options replace in a recipe, the trackers among them.

    Args:
        settings: texts of the form key=value.
        report_to: names of trackers.
    """
    return [*(settings or ()), *([f"report_to={json.dumps(list(report_to))}"] if report_to else [])]


def _check(recipe: Any) -> None:
    """Say that a recipe can be run, what its budget is in figures, and how long it takes."""
    from rich.markup import escape

    from edakari.pipeline.checking import check_recipe
    from edakari.report.formatting import cost
    from edakari.report.log_figures import clock_time, figure

    found = check_recipe(recipe)
    limits = ", ".join(f"{figure(name, found.costs[name])} to {cost(limit)}" for name, limit in found.limits.items())
    show(f"[green]✓[/] {escape(str(recipe.where))} can be run" + (f": {limits}" if limits else ""))
    for term in recipe.budget.latencies:
        show(escape(f"  {term}: the run measures it in {recipe.latencies[term.cost]}"))
    for name, seconds in found.seconds.items():
        show(f"  {name}: about {clock_time(seconds)} here")


def own_recipe(path: Path, settings: Sequence[str], trust: bool) -> Any:
    """Read a recipe; `--trust` also allows later commands on the run folder to run its code."""
    from edakari.models.trust import code_in, remember, remember_command
    from edakari.pipeline import read_recipe

    recipe = read_recipe(path, settings, trust_code=trust)
    if trust:
        for name in code_in(recipe.content):
            remember(name)
        for text in recipe.programs:
            remember_command(text)
    return recipe


def _found(recipe: Path) -> tuple[Path, Path]:
    """Return the recipe's file and its default run folder; a run folder's own recipe resumes that run."""
    from edakari.pipeline.folder import RECIPE, is_run

    file = recipe / RECIPE if is_run(recipe) else recipe
    own = file.name == RECIPE and is_run(file.parent)
    return file, file.parent if own else Path("runs") / recipe.stem


def run_recipe(recipe: Any, folder: Path, overwrite: bool, as_json: bool) -> None:
    """Run a recipe and print the results."""
    from rich.markup import escape

    from edakari.pipeline import run

    if recipe.model.weights == "random":
        trained = getattr(recipe.method, "from_scratch", False)
        what = f"is trained by the method; its own {UNTRAINED}" if trained else f"is pruned untrained; {UNTRAINED}"
        note(f"[bold yellow]Random weights:[/] {escape(recipe.model.name)} {what}")
    result = run(recipe, folder, overwrite=overwrite, notify=telling(watcher()))
    if not result.fresh:
        note(f"[yellow]{escape(str(folder))} was finished before; nothing was done.[/] --overwrite starts again.")
    if as_json:
        print_json(result.report)
        return
    _show(result.report)
    show(f"\nReport: [bold]{escape(str((folder / 'report.html').resolve()))}[/]")


def _show(report: Mapping[str, Any]) -> None:
    """Print the results of a run."""
    from rich.markup import escape

    from edakari.cli.tables import comparison, int8_table, latency_line
    from edakari.report.formatting import dropped_line

    show("")
    show(comparison(report))
    if report["dropped"]:
        show(f"\nDropped branches and paths: {escape(dropped_line(report['dropped']))}")
    for number, (cost, timed) in enumerate(report["latencies"].items()):
        show(("" if number else "\n") + escape(latency_line(cost, timed)))
    if report["int8"]:
        show("")
        show(int8_table(report["int8"]))
