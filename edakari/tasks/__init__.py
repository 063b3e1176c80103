"""Data, losses and metrics of one task each."""
