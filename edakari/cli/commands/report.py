"""`edakari report`: writes the report of a run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edakari.cli.console import guarded, note, print_json, show

__all__ = ["report"]

FAILED = 3
"""Exit code where a condition of `--fail-if` holds."""


@guarded
def report(
    run: Annotated[Path, typer.Argument(help="Run folder that `edakari prune` made; it need not be finished.")],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            metavar="CONDITION",
            help="End with exit code 3 if this holds, such as top1_drop>1 or macs>50%; may be given several times.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and write nothing.")] = False,
) -> None:
    """Write report.html, report.json and report.png of a run from its results."""
    from rich.markup import escape

    from edakari.report import collect
    from edakari.report.gate import holding

    content = collect(run)
    failures = holding(content, ",".join(fail_if)) if fail_if else []
    if as_json:
        print_json(content)
    else:
        _write(run, content)
    for failure in failures:
        note(f"[bold red]Failed:[/] [red]{escape(failure)}[/]")
    if failures:
        raise typer.Exit(FAILED)


def _write(run: Path, content: Mapping[str, Any]) -> None:
    from rich.markup import escape

    from edakari.cli.tables import comparison
    from edakari.report import write_report
    from edakari.report.formatting import dropped_line
    from edakari.report.verdict import verdict

    page = write_report(run)
    if content["random_weights"]:
        which = "its accuracies" if content["from_scratch"] else "accuracies"
        note(f"[bold yellow]Random weights:[/] the dense network was not trained, so {which} are meaningless")
    found = verdict(content)
    lines = [found.title, *([found.judged.text, found.judged.note] if found.judged else []), found.speed_text]
    show(
        "\n".join(
            [f"[bold {'green' if found.met else 'red'}]{escape(lines[0])}[/]", *map(escape, filter(None, lines[1:]))]
        )
    )
    show("")
    show(comparison(content))
    if content["dropped"]:
        show(f"\nDropped branches and paths: {escape(dropped_line(content['dropped']))}")
    show(f"\nReport: [bold]{escape(str(page.resolve()))}[/]")
