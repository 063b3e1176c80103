"""`edakari explain`: pictures of why parts were pruned and what it changes, one sub-command for each kind."""

from __future__ import annotations

import typer

from edakari.cli.commands.explain_isp import isp
from edakari.cli.commands.explain_predictions import predictions
from edakari.cli.commands.explain_rfc import rfc
from edakari.cli.commands.explain_tokens import tokens

__all__ = ["explain"]

explain = typer.Typer(
    help="Draw why parts were pruned, and what it changes; adds pictures to a run folder and its report.",
    no_args_is_help=True,
)
explain.command()(isp)
explain.command()(predictions)
explain.command()(rfc)
explain.command()(tokens)
