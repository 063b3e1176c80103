"""`edakari measure --calibrate`: fits a latency table and reports how accurate its predictions are."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any

from torch import nn

from edakari.cli.console import note
from edakari.core.space import limited
from edakari.core.steady import STEADY
from edakari.graph import trace
from edakari.latency import Fit
from edakari.latency.bench import Bench
from edakari.latency.model import calibrate, fill_table
from edakari.latency.widths import WidthLatency

__all__ = ["calibration", "calibration_text"]

LEAST = 0.25
"""Smallest fraction of a group that is measured and sampled."""


def calibration(model: nn.Module, bench: Bench, networks: int, step: int) -> dict[str, Any]:
    """Fill the table of a runtime for a network, time it and sub-networks, and store the fit in the table.

    Args:
        model: the network, on the CPU.
        bench: runtime and settings of the timing.
        networks: number of networks to time.
        step: widths are multiples of this.

    Returns:
        Plain values: the measurements, and the errors of the predictions.
    """
    graph = trace(model, bench.example)
    groups = limited(graph.groups, round_to=step, min_channels=LEAST)
    latency = WidthLatency(model, graph, groups)
    table, filling = fill_table(latency, bench, note)
    _, fitting = calibrate(latency, bench, networks, note)
    return {**dc.asdict(table.key), "table": str(table.path), **filling, **fitting}


def calibration_text(name: str, result: Mapping[str, Any]) -> str:
    """Format the result of a calibration in a few lines."""
    fit, spread = Fit(**result["fit"]), result["spread"]
    lines = [
        f"{name}: {fit.networks} networks of {min(_medians(result)):.3g} to {max(_medians(result)):.3g} ms",
        f"  error of the prediction: {fit.median_error:.1%} median, {fit.worst_error:.1%} worst "
        f"(each predicted by a fit to the others)",
        f"  rank correlation: {fit.rank_correlation:.3f}",
        f"  latency = {fit.constant_ms:.3g} ms + {fit.scale:.3f} × the sum of its layers"
        f" + {fit.weights_ms:.3g} ms × its millions of weights",
        f"  table: {result['table']}",
    ]
    if spread > STEADY:
        lines.append(
            f"  [yellow]The machine is noisy:[/] calls of one network differ by {spread:.0%} (between the quartiles). "
            "Calibrate again when the machine is idle."
        )
    if result["unknown_operators"]:
        lines.append(f"  priced as a pass over their values: {', '.join(result['unknown_operators'])}")
    return "\n".join(lines)


def _medians(result: Mapping[str, Any]) -> list[float]:
    return [network["median_ms"] for network in result["networks"]]
