"""`edakari explain`: pictures of why something was pruned, one sub-command for each way of seeing it."""

from __future__ import annotations

import typer

from edakari.cli.commands.explain_isp import isp
from edakari.cli.commands.explain_rfc import rfc
from edakari.cli.commands.explain_tokens import tokens

__all__ = ["explain"]

explain = typer.Typer(help="Draw why something was pruned, into a run's folder and its report.", no_args_is_help=True)
explain.command()(isp)
explain.command()(rfc)
explain.command()(tokens)
