"""When a timing is trusted; by itself, since the report and the command line need it without torch."""

from __future__ import annotations

__all__ = ["STEADY"]

STEADY = 0.15
"""Largest interquartile range of trusted timings, as a fraction of the median, by default."""
