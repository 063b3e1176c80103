"""When a timing is trusted; by itself, since the report and the command line need it without torch."""

from __future__ import annotations

__all__ = ["STEADY"]

STEADY = 0.15
"""Distance between the quartiles, as a share of the median, up to which timings are trusted unless said."""
