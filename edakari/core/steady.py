"""When a timing is trusted, and when a latency is met; by itself, as the report and the command line need no torch."""

from __future__ import annotations

__all__ = ["LATENCY", "MISS", "STEADY"]

LATENCY = "latency"
"""Name of the latency of a budget that has one; of several, each has a name of its own, as in `latency@pi`."""
STEADY = 0.15
"""Largest interquartile range of trusted timings, as a fraction of the median, by default."""
MISS = 0.02
"""Fraction of a latency limit by which a network may exceed it; no nearer one is looked for.

Timings of one network by two sessions of ONNX Runtime differ by about as much, so a nearer one would be luck.
"""
