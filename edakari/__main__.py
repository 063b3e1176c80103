"""`python -m edakari`."""

from edakari.cli.main import main

if __name__ == "__main__":
    main()
