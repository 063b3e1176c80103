"""edakari: prunes a trained vision network down to a budget."""

__version__ = "0.1.0"
