"""`python -m edakari`, and the command `edakari`."""

from __future__ import annotations

import sys

from edakari.errors import MissingPackage

__all__ = ["main"]


def main() -> None:
    """Run the command line; without the packages that it needs, end in one line that says how to install them."""
    try:
        from edakari.cli.main import main as run
    except MissingPackage as error:
        sys.exit(f"Error: {error}")
    run()


if __name__ == "__main__":
    main()
