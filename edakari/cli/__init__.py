"""The command line."""

from edakari.core.optional import needs

with needs("cli", "the command line"):
    # imports of every command, checked here once
    import rich  # noqa: F401
    import typer  # noqa: F401
