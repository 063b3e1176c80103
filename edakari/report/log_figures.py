"""Formatting of the figures of a log, and of durations that are still running."""

from __future__ import annotations

from collections.abc import Mapping

from edakari.report.formatting import cost, is_share, metric, size

__all__ = ["clock_time", "figure", "figures_text", "number"]

UNITS = {"macs": "MACs", "flops": "FLOPs", "params": "parameters", "activations": "activations"}


def number(value: float) -> str:
    """Format a number with four digits, without an exponent unless it is tiny."""
    if abs(value) >= 99_999.5:
        return f"{'−' if value < 0 else ''}{cost(abs(value))}"
    exact = float(value).is_integer()
    return (f"{value:.0f}" if exact or abs(value) >= 9_999.5 else f"{value:.4g}").replace("-", "−", int(value < 0))


def figure(name: str, value: float) -> str:
    """Format a figure of a log with its name and unit."""
    bare = "validation loss" if name == "val_loss" else name.removeprefix("val_")
    if bare in UNITS:
        return f"{cost(value)} {UNITS[bare]}"
    if bare in ("size", "memory"):
        return f"{bare} {size(value)}"
    if bare.startswith("latency"):
        return f"{bare} {value:.3g} ms"
    named, _, unit = bare.rpartition(" ")
    if unit in ("ms", "s"):
        return f"{named} {value:.3g} {unit}"
    if unit == "%":
        return f"{named} {value:+.1f} %".replace("-", "−")
    return f"{bare} {metric(bare, value) if is_share(bare) else number(value)}"


def figures_text(figures: Mapping[str, float]) -> str:
    """Format the figures of a log in one line."""
    return ", ".join(figure(name, value) for name, value in figures.items())


def clock_time(value: float) -> str:
    """Format a time in whole seconds, or as minutes and seconds, or as hours and minutes."""
    if value < 59.5:
        return f"{value:.0f} s"
    whole = round(value)
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"
