"""The command line."""

from edakari.core.optional import needs

with needs("cli", "the command line"):
    # what every command uses, so that none of them has to ask for it
    import rich  # noqa: F401
    import typer  # noqa: F401
